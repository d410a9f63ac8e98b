"""What no experiment changes: spectra, sound, pitch, search with its classical quantiser, networks,
plots and plumbing.  Nothing here imports a script.
"""
