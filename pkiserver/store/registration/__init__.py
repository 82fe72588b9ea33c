"""What the registration gate keeps: requesters, codes, requests with their votes, seats, transactions."""
