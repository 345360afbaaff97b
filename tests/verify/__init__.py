"""Tests of refembed/verify."""
