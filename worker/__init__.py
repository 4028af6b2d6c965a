"""Where jobs run: settings, the command line, and what surrounds a run on one machine."""
