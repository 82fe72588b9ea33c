"""Who may have what: the gate, accounts, enrolment codes, pending requests."""
