"""Pure decisions: what may be crawled, when, and how a visit ended. Import the file that has the name: parser processes import
``scope`` and pay for every import.
"""
