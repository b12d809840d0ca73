"""One crawl by several processes: the parts, each of which crawls some of the hosts, and their parent, which speaks for all.

auto           how many processes a new crawl has
opening        the directory, its division and what the parts share, before there is a loop or a thread
nursery        the small process that forks the parts
part           a part: opens and runs its share, and does what its parent says
crew           the parent: begins the parts, begins them again, drains them; watched_part is what it knows of each
channel        how parent and part talk
shares, pacing, visits   what each part may use of the limits of the whole
merged         counts and readings of all parts as those of one crawl
run, serve     the commands, as in ``crawler.service``; steering is what the control API asks, seeding the seeds it sends
"""
