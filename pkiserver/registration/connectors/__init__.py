"""Connectors: each turns a credential into who somebody is, in which groups, with which attributes."""
