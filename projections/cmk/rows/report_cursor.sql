UPDATE report_cursor SET sequence = max(sequence, :sequence);
