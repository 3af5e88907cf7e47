INSERT INTO mark_routine (subject, epoch, region, tenant, kind, counter, head, sequence)
VALUES (:subject, :epoch, :region, :tenant, :kind, :counter, :id, :sequence)
ON CONFLICT (subject, epoch) DO UPDATE SET head = excluded.head, sequence = excluded.sequence,
    counter = max(counter, excluded.counter);
