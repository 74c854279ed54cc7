"""Selection as other libraries call it; each file needs its library, so none is imported from here."""
