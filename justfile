# `just` is in the lock: .venv/bin/just --list. Recipes need scripts/prepare to have run once.
set shell := ["bash", "-euo", "pipefail", "-c"]
bin := ".venv/bin"

# Show this list
default:
    @just --list

# Make or refresh .venv from the hashed lock
prepare:
    scripts/prepare

# Lint, types and walls, no tests
check: prepare
    {{bin}}/ruff check .
    {{bin}}/ruff format --check .
    {{bin}}/mypy --strict
    {{bin}}/lint-imports

# Everything CI runs
test *args: prepare
    scripts/test {{args}}

# Repair what ruff can repair
fix: prepare
    {{bin}}/ruff check --fix .
    {{bin}}/ruff format .

# The one-command stack; Ctrl-C stops it
up *args:
    scripts/up {{args}}

# Start the stack, play the main job, stop
demo *args:
    scripts/up --demo {{args}}

# Add golden files for tags that have none; never changes one
golden: prepare
    {{bin}}/python tests/golden/add.py

# Write the generated pages of docs/ anew
manual: prepare
    {{bin}}/python -c "from openkcm.contract import metrics; print(metrics.manual(), end='')" > docs/operations/metrics.md
    {{bin}}/python tests/kmip_profiles/manual.py

# Write requirements.lock anew from pyproject.toml (needs uv)
lock:
    uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --all-extras --group dev pyproject.toml -o requirements.lock

# Measure: `just bench kmip`, `bench objects` ...; each says in its first lines what it does, and writes docs/bench
bench what *args: prepare
    {{bin}}/python scripts/bench/{{what}}.py {{args}}

# A root scan of every process of a node, 50 rounds x {1, 4} workers: idle, under load, dumped, forked, after the ack
soak-custody *args: prepare
    {{bin}}/python tests/custody/soak_memory.py {{args}}

# Break an export in N ways of ten kinds, and a server's files in N/4 of seven; each is found at the right event
mutations rounds="50": prepare
    OPENKCM_MUTATIONS={{rounds}} {{bin}}/python -m pytest -q tests/audit/test_mutations.py tests/audit/test_store_mutations.py

# Rotations of L1, L2 and L3 on two nodes under load, one node killed at a random moment of each; 20 rounds a level
soak-rotation *args: prepare
    {{bin}}/python tests/custody/soak_rotation.py {{args}}

# Two CMKs under load, kill -9 of either and of the hub, N rounds, and N with the leader of a clustered hub: nothing lost
two-cmks rounds="20": prepare
    OPENKCM_ROUNDS={{rounds}} OPENKCM_LEADER_ROUNDS={{rounds}} {{bin}}/python -m pytest -q -s tests/scenarios/test_two_cmks.py

# Fuzz a decoder (ttlv, json, xml, http) with real messages to begin with; ten million executions unless told otherwise
fuzz target="ttlv" runs="10000000" *args: prepare
    {{bin}}/python tests/fuzz/run.py {{target}} -runs={{runs}} -print_final_stats=1 {{args}}

# Fifty rounds on two nodes of a customer's KMS that is away, throttles, hangs, lies, denies, or refuses our token (10 min)
soak-outage: prepare
    OPENKCM_OUTAGE_ROUNDS=50 {{bin}}/python -m pytest -s tests/scenarios/test_root_outage.py -k faults

# Schemathesis over the whole API, longer than CI has time for
soak-api examples="60": prepare
    OPENKCM_API_EXAMPLES={{examples}} {{bin}}/python -m pytest -q --timeout 3600 tests/governance/test_schemathesis.py

# Play 100,000 (or so many) seeds of the simulator, telling what breaks at once: just soak-sim 5000 700000
soak-sim seeds="100000" first="0": prepare
    cd tests && ../{{bin}}/python -m simulation.soak {{seeds}} {{first}}

# Play one seed and print its trace: just replay 17
replay *args: prepare
    cd tests && ../{{bin}}/python -m simulation.replay {{args}}

# Ten minutes of KMIP load with enemies: neither memory nor descriptors of custodian and worker may grow
soak-kmip *args: prepare
    {{bin}}/python scripts/bench/soak_kmip.py {{args}}

# Random rounds on a real stack under load: kill -9, SIGSTOP, cut links, bad disks around the kill switch (root: all of it)
soak-faults rounds="200" seed="1": prepare
    OPENKCM_FAULT_ROUNDS={{rounds}} OPENKCM_FAULT_SEED={{seed}} OPENKCM_HISTORY=history.ndjson {{bin}}/python -m pytest -q -s tests/scenarios/test_fault_rounds.py
    {{bin}}/python tests/history_checker.py history.ndjson

# A node's and the CMK's certificate end under load: served until the lease is over, and again by new files alone (1 min)
soak-expired: prepare
    cd tests && ../{{bin}}/python -m faults.expired

# The hub's disk is full when the switch is pulled: closed by lease by the time that was told, revoked once there is room (1 min, root)
soak-full-hub: prepare
    cd tests && ../{{bin}}/python -m faults.full_hub

# An earlier release's installed package becomes this one under load, or, `upgrade HEAD tables`, one with other tables: no operation may fail (3 min)
upgrade from="HEAD~60" *tables: prepare
    cd tests && ../{{bin}}/python -m upgrades.rolling {{from}} {{tables}}

# The hub is down for ten minutes while KMIP load runs and L1 rotates; then every copy is compared, event for event
soak-hub-down minutes="10": prepare
    cd tests && ../{{bin}}/python -m faults.hub_down {{minutes}}

# End a CMK under load N times, kill -9 and SIGTERM in turn: nothing acknowledged is lost, sessions and streams go on
soak-restart rounds="20": prepare
    OPENKCM_RESTARTS={{rounds}} {{bin}}/python -m pytest -q -s --timeout 1800 tests/scenarios/test_cmk_restart.py
