"""Foreign documents into links. Import the file that has the name: parser processes pay for every import.

pool, process, child   the parser processes: all of them, one as its parent sees it, its program; heavy_hosts
html                   the outlinks of a page; requisites and css: what it needs to be shown
sitemap                a sitemap's bytes in parts; sitemap_formats reads one (sitemap_part, sitemap_xml, sitemap_repair)
seeds                  URL lists; seed_files opens them, seed_lines reads a line
microsyntax, encoding, title   small grammars, encodings, the title; limited: the last two within a memory limit
"""
