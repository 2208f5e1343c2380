"""The command line: ``recipe`` runs one recipe, ``command`` is ``wnseq``, ``errors`` turns mistakes into one line.

The names stand in the modules, since ``wnseq`` without arguments must not wait for Lightning to be imported.
"""
