"""Tests of refembed/verify/engines."""
