"""The places where runs train and pools serve, behind one protocol."""
