INSERT INTO event_critical
    (sequence, id, subject, tag, region, tenant, kind, counter, epoch, issuer, person, correlation, at_ms, body)
VALUES (:sequence, :id, :subject, :tag, :region, :tenant, :kind, :counter, :epoch, :issuer, :person, :correlation,
    :at_ms, :body);
