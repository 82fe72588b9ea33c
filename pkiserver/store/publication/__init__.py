"""What publication keeps: the address book, and the queue of what is to be brought to directories outside."""
