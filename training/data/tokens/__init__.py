"""Images as token ids on disk: ``flowmo tokenize-dataset``, and what reads its result."""
