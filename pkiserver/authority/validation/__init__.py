"""Status for authorities that are not ours: their lists are fed in, responders of ours answer in their name."""
