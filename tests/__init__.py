"""Unit tests need nothing, integration tests real servers, acceptance tests real processes that are killed in the middle."""
