-- The role of one crawl, with the least it needs: its own schema in this database, and nothing else. By a superuser, once for each crawl:
--
--   psql -d crawls -v role=crawler -v schema=my_crawl -v password="$(openssl rand -hex 24)" -f roles.sql
--
-- The password is read from the file in CRAWLER_PASSWORD_FILE where it is not given. Run again it changes the password and nothing else.
-- Then, in pg_hba.conf, let this role into this database only, by TLS:
--
--   hostssl  crawls  crawler  10.0.0.0/8  scram-sha-256
--   host     all     crawler  0.0.0.0/0   reject
--
-- crawler run --cluster 'postgresql://crawler@db.example/crawls?schema=my_crawl&sslmode=verify-full&passfile=/etc/crawler/pgpass'
\set ON_ERROR_STOP on
\if :{?role}
\else
  \set role crawler
\endif
\if :{?schema}
\else
  \set schema :role
\endif
\if :{?password}
\else
  \set password `cat "$CRAWLER_PASSWORD_FILE"`
\endif

-- not in the server's log: it would show the password
SET log_statement = 'none';
SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
SET password_encryption = 'scram-sha-256';

SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT CONNECTION LIMIT 190
  PASSWORD :'password';

-- The database: by default everybody may connect and make temporary tables, and before version 15 put tables into public.
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- The crawl makes its tables, and changes them when a new version does, so the schema is its own. It may make no other.
SELECT format('CREATE SCHEMA %I AUTHORIZATION %I', :'schema', :'role') WHERE to_regnamespace(quote_ident(:'schema')) IS NULL \gexec
REVOKE ALL ON SCHEMA :"schema" FROM PUBLIC;
ALTER ROLE :"role" SET search_path = :"schema";
