"""How the parts of a crawl send each other what another owns: links, and robots rules.

Each part appends to files of its own, in the commit that makes what it found true; the others read them up to the last
commit, and keep how far they are in the commit that makes what they read true. So nothing is lost, or comes twice.
"""
