"""What ``pkiserver quickstart`` does before it starts the server: an instance in a folder of its own."""
