"""The record types of Penstock's first users, a module a domain."""
