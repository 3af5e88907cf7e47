INSERT INTO event_routine
    (sequence, id, subject, tag, region, tenant, kind, counter, epoch, issuer, person, correlation, at_ms, body)
VALUES (:sequence, :id, :subject, :tag, :region, :tenant, :kind, :counter, :epoch, :issuer, :person, :correlation,
    :at_ms, :body);
