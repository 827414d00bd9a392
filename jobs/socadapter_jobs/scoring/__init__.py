"""How investigations are judged: figures, calibration, cheap baselines, paired comparisons and gates."""
