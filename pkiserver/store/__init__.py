"""SQL: schema, migrations, group commit, one module of queries per aggregate."""
