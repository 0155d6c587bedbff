"""Tables and figures, computed from run logs and stores: they read, and change nothing."""
