"""What no experiment changes: spectra, search, pitch, networks, plots and plumbing.  Nothing here
imports a script.
"""
