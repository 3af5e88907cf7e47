INSERT OR IGNORE INTO ledger_epoch (epoch, first_sequence, sequence)
VALUES (json_extract(:data, '$.epoch'), json_extract(:data, '$.first_sequence'), :sequence);
