"""Fast forms of the networks' layers, each equal to a plain form by the tests."""
