"""The tables of a cluster's crawl, in a schema of its own, made and migrated by the program. Plain SQL that Citus has too: no
trigger, no LISTEN, no advisory lock but for the making, ON CONFLICT only by key.

``known`` and ``work`` are what the members' stores hold, row by row (see ``crawler.frontier.rocksdb.layout``): ``known`` grows
and stays, ``work`` comes and goes; so that vacuuming the one need not read the other. A slot is one range of either's key.
Neither is partitioned: 16 partitions of each made a commit clearly dearer, and gave nothing at these sizes.
"""

from __future__ import annotations

from typing import Final

from crawler.core.keys import SLOTS

SCHEMA: Final = 1

TABLES: Final = f"""
CREATE TABLE crawl (one boolean PRIMARY KEY DEFAULT true CHECK (one), schema int NOT NULL, identity text NOT NULL,
  secret bytea NOT NULL, url_rules int NOT NULL);
CREATE TABLE member (id int GENERATED ALWAYS AS IDENTITY, dir uuid PRIMARY KEY, node uuid NOT NULL, name text NOT NULL,
  incarnation bigint NOT NULL DEFAULT 1, seen timestamptz NOT NULL, here boolean NOT NULL DEFAULT true,
  seeding boolean NOT NULL, lost boolean NOT NULL DEFAULT false,
  commits bigint NOT NULL DEFAULT 0, state bytea NOT NULL DEFAULT '', out_long bytea[] NOT NULL DEFAULT '{{}}')
  WITH (fillfactor = 50);
CREATE TABLE slot (id smallint PRIMARY KEY, owner int, epoch bigint NOT NULL DEFAULT 0, until timestamptz) WITH (fillfactor = 20);
INSERT INTO slot (id) SELECT generate_series(0, {SLOTS - 1});
CREATE TABLE known (slot smallint NOT NULL, family smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
  PRIMARY KEY (slot, family, key)) WITH (fillfactor = 85);
CREATE TABLE work (slot smallint NOT NULL, family smallint NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
  PRIMARY KEY (slot, family, key))
  WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE own (member int NOT NULL, key bytea NOT NULL, value bytea NOT NULL, PRIMARY KEY (member, key))
  WITH (fillfactor = 50);
CREATE TABLE box (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, dest int NOT NULL,
  made timestamptz NOT NULL DEFAULT clock_timestamp(), data bytea NOT NULL);
CREATE INDEX box_dest ON box (dest);
ALTER TABLE box ALTER data SET STORAGE EXTERNAL;
"""

MIGRATIONS: Final[dict[int, str]] = {}
"""From a schema to the next one."""

# By one moment, that of the statement: what a member has ends all at once, with the member, and its heir gets it in one tick.
TICK: Final = """
WITH beat AS (UPDATE member SET seen = statement_timestamp(), out_long = %(out)s,
    here = %(wants)s OR EXISTS (SELECT FROM slot WHERE owner = %(id)s)
  WHERE id = %(id)s AND incarnation = %(inc)s RETURNING id),
fair AS (SELECT CASE WHEN %(wants)s
    THEN 256 / (1 + count(*)) + (count(*) FILTER (WHERE id < %(id)s) < 256 %% (1 + count(*)))::int ELSE 0 END AS most FROM member
  WHERE id <> %(id)s AND here AND seen > statement_timestamp() - make_interval(secs => %(lease)s)),
mine AS (SELECT id, row_number() OVER (ORDER BY id) AS rank FROM slot WHERE owner = %(id)s AND until > statement_timestamp()),
free AS (SELECT id, owner FROM slot WHERE owner IS NULL OR until < statement_timestamp() ORDER BY id
  LIMIT greatest(0, (SELECT most FROM fair) - (SELECT count(*) FROM mine)) FOR UPDATE SKIP LOCKED),
held AS (UPDATE slot s SET owner = %(id)s, until = statement_timestamp() + make_interval(secs => %(lease)s),
    epoch = epoch + CASE WHEN s.id IN (SELECT id FROM free) THEN 1 ELSE 0 END
  WHERE EXISTS (SELECT FROM beat) AND (s.owner = %(id)s AND s.until > statement_timestamp() OR s.id IN (SELECT id FROM free))
  RETURNING s.id, s.epoch)
SELECT held.id, held.epoch, coalesce(mine.rank > fair.most, false), free.owner,
  (SELECT array_agg(key) FROM member m, unnest(m.out_long) AS key WHERE m.id = free.owner AND m.id <> %(id)s
    AND free.id = CASE WHEN substring(key FROM 1 FOR 7) = 'robots:' THEN (SELECT min(f.id) FROM free f WHERE f.owner = m.id)
      ELSE get_byte(key, 0) END)
FROM held CROSS JOIN fair LEFT JOIN mine ON mine.id = held.id LEFT JOIN free ON free.id = held.id
"""
OWNERS: Final = "SELECT id, CASE WHEN until > clock_timestamp() THEN owner END FROM slot"
MEMBERS: Final = """SELECT id, node::text, name, extract(epoch FROM clock_timestamp() - seen)::float8,
  here AND seen > clock_timestamp() - make_interval(secs => %(lease)s), seeding, lost, state, incarnation,
  dir::text FROM member ORDER BY id"""
BOXES: Final = """SELECT dest, count(*), sum(octet_length(data)), extract(epoch FROM clock_timestamp() - min(made))::float8
  FROM box GROUP BY dest"""

SEEN: Final = """SELECT seen FROM member
  WHERE dir = %(dir)s AND here AND seen > clock_timestamp() - make_interval(secs => %(within)s)"""
BEFORE: Final = "SELECT out_long, incarnation, lost FROM member WHERE dir = %(dir)s FOR UPDATE"
JOIN: Final = """
INSERT INTO member (dir, node, name, seen, seeding) VALUES (%(dir)s, %(node)s, %(name)s, clock_timestamp(), %(seeding)s)
ON CONFLICT (dir) DO UPDATE SET incarnation = member.incarnation + 1, name = excluded.name, seen = excluded.seen, here = true,
  seeding = member.seeding OR excluded.seeding, out_long = '{}'
RETURNING id, incarnation, commits, state
"""
# Another incarnation: a commit of its last process may still be on its way.
ENDED: Final = "UPDATE member SET incarnation = incarnation + 1 WHERE dir = %(dir)s RETURNING id, commits, state"
KEEP: Final = """UPDATE slot SET epoch = epoch + 1, until = clock_timestamp() + make_interval(secs => %(lease)s)
  WHERE owner = %(id)s RETURNING id, epoch"""
# It may come late, by a session that is given up here: what was got again meanwhile stays.
RELEASE: Final = """UPDATE slot s SET owner = NULL, until = NULL
  FROM unnest(%(slots)s::smallint[], %(epochs)s::bigint[]) AS held (id, epoch)
  WHERE s.id = held.id AND s.epoch = held.epoch AND s.owner = %(id)s"""
LEFT: Final = """SELECT key, value FROM own JOIN member ON member.id = own.member
  WHERE member.lost AND (substring(key FROM 1 FOR 9) = %s OR substring(key FROM 1 FOR 5) = %s)"""

# A fence fails by itself, so that the rest of the pipeline is not run.
FENCE_MEMBER: Final = """WITH m AS (
  UPDATE member SET commits = commits + 1, state = %(state)b, seeding = seeding AND NOT %(ended)s
  WHERE id = %(id)s AND incarnation = %(inc)s AND commits = %(commits)s RETURNING 1) SELECT 1 / count(*) FROM m"""
# Slots in order. No join: it was done row by row where the table's statistics were of another owner, 90 µs a page.
FENCE_SLOTS: Final = """SELECT 1 / (coalesce(array_agg(id), '{}') = %(slots)b::smallint[]
  AND coalesce(array_agg(epoch), '{}') = %(epochs)b::bigint[])::int FROM (
  SELECT id, epoch FROM slot WHERE id = ANY(%(slots)b::smallint[]) AND owner = %(id)s AND until > clock_timestamp()
  ORDER BY id FOR SHARE) f"""
TAKE: Final = """WITH gone AS (DELETE FROM box WHERE id = ANY(%(ids)b::bigint[]) AND dest = %(id)s RETURNING id)
  SELECT 1 / (count(*) = cardinality(%(ids)b::bigint[]))::int FROM gone"""
PUT: Final = """INSERT INTO {table} (slot, family, key, value)
  SELECT * FROM unnest(%b::smallint[], %b::smallint[], %b::bytea[], %b::bytea[])
  ON CONFLICT (slot, family, key) DO UPDATE SET value = excluded.value"""
DELETE: Final = """DELETE FROM {table} t USING unnest(%b::smallint[], %b::smallint[], %b::bytea[]) AS gone (slot, family, key)
  WHERE t.slot = gone.slot AND t.family = gone.family AND t.key = gone.key"""
PUT_OWN: Final = """INSERT INTO own (member, key, value) SELECT %b::int, * FROM unnest(%b::bytea[], %b::bytea[])
  ON CONFLICT (member, key) DO UPDATE SET value = excluded.value"""
DELETE_OWN: Final = "DELETE FROM own WHERE member = %b AND key = ANY(%b::bytea[])"
SEND: Final = "INSERT INTO box (dest, data) SELECT * FROM unnest(%b::int[], %b::bytea[])"
RECEIVE: Final = "SELECT id, data FROM box WHERE dest = %b AND id <> ALL(%b::bigint[]) ORDER BY id LIMIT %b"
ADOPT: Final = """UPDATE box SET dest = %b WHERE id IN (
  SELECT id FROM box WHERE dest <> ALL(%b::int[]) ORDER BY id LIMIT %b FOR UPDATE SKIP LOCKED)"""
# By the index, whatever is there: an EXISTS may read the whole table for each slot of which there is nothing.
FILLED: Final = """SELECT id FROM unnest(%b::smallint[]) AS id WHERE
  (SELECT true FROM work WHERE slot = id ORDER BY slot, family, key LIMIT 1) OR
  (SELECT true FROM known WHERE slot = id ORDER BY slot, family, key LIMIT 1)"""
# Another incarnation: a node that was only frozen, or cut off, must learn of it before it takes a slot.
DECLARED: Final = """UPDATE member SET lost = true, here = false, seeding = false, incarnation = incarnation + 1
  WHERE node::text = %(node)s AND NOT EXISTS (
  SELECT FROM member WHERE node::text = %(node)s AND here AND seen > clock_timestamp() - make_interval(secs => %(lease)s))
  RETURNING id"""
GIVEN_UP: Final = """UPDATE slot SET owner = NULL, until = NULL
  WHERE owner IN (SELECT id FROM member WHERE node::text = %(node)s)"""
# A node that is frozen while it sends a commit: to the server its transaction is neither idle nor a statement that runs, so no
# time-out of the session ends it; and its machine may still answer for its connection. The lease is its own.
STALLED: Final = """SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
  WHERE a.usename = current_user AND a.wait_event = 'ClientRead' AND a.pid <> pg_backend_pid()
  AND CASE WHEN a.application_name ~ '^flatcrawler [0-9]+[.][0-9]+$'
    THEN a.xact_start < clock_timestamp() - make_interval(secs => split_part(a.application_name, ' ', 2)::float8) END
  AND a.pid IN (SELECT pid FROM pg_locks WHERE relation IN (to_regclass('slot'), to_regclass('member')))"""
DEAD_ROWS: Final = """SELECT relname::text, n_dead_tup FROM pg_stat_user_tables
  WHERE schemaname = %s"""
END: Final = """SELECT (SELECT coalesce(bool_or(seeding), false) FROM member WHERE NOT lost), EXISTS (SELECT FROM box),
  (SELECT array_agg(state) FROM member)"""
