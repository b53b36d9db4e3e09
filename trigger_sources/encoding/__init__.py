"""The encodings of events and headers: one rule each, for every source and every hop. Pure."""
