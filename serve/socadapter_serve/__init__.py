"""The Ray Serve application: alerts in, verdicts out, with the right adapter, verified, and never another."""
