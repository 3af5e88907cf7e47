INSERT INTO event_critical
    (sequence, id, subject, tag, region, tenant, kind, counter, epoch, issuer, person, correlation, at_ms, body)
VALUES (:sequence, :id, :subject, :tag, :region, :tenant, :kind, :counter, :epoch, :issuer, :person, :correlation,
    :at_ms, :body);
INSERT INTO mark_critical (subject, epoch, region, tenant, kind, counter, head, sequence)
VALUES (:subject, :epoch, :region, :tenant, :kind, :counter, :id, :sequence)
ON CONFLICT (subject, epoch) DO UPDATE SET head = excluded.head, sequence = excluded.sequence,
    counter = max(counter, excluded.counter);
