"""What the Trainer is helped by: precision, order of rows, schedule, dropout, memory."""
