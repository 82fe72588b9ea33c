"""How authorities come to be, go on, and end, and what their own certificates say."""
