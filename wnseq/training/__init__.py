"""What Lightning and matplotlib need from us. Nothing here knows a network."""
