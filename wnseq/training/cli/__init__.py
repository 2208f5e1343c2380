"""The command line: ``recipe`` runs one recipe, ``command`` is ``wnseq``, ``errors`` turns mistakes into one line.

The names are in the modules, since ``wnseq`` without arguments must not wait for the import of Lightning.
"""
