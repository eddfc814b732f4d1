/*
 * Debugging away from production: --copy takes what a worker would be
 * recovered from, also while it runs, and --replay runs that again, without
 * supervisor, clients, receivers and other workers, with the same clock, the
 * same randomness and the same order, and stops in Python's debugger.
 *
 * A copy is a directory:
 *	replay			what the first message of a worker says
 *	checkpoint.sqlite	its file
 *	journal			its journal, from that checkpoint on
 */
#include <sys/stat.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/mp.h"
#include "common/part.h"
#include "worker/worker.h"

#define COPY_NAME	"wallaroo-replay"
#define COPY_VERSION	1
#define COPY_TRIES	20
#define COPY_MAX	(16 << 20)	/* bytes of the file "replay" */
#define TURN_BYTES	(1 << 20)

static void __attribute__((noreturn, format(printf, 2, 3)))
give_up(int code, const char *fmt, ...)
{
	va_list ap;

	(void)fprintf(stderr, "wallaroo-worker: ");
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fprintf(stderr, "\n");
	exit(code);
}

/* --- which application: the file of its module --------------------------- */

/* A module is one file, or the __init__ of a package. */
static FILE *
open_module(const struct conf_app *conf)
{
	char *name = xstrdup(conf->module), *path, *p;
	FILE *f = NULL;
	size_t i, k;

	for (p = name; *p != '\0'; p++)
		if (*p == '.')
			*p = '/';
	for (i = 0; i < conf->python_path.n && f == NULL; i++)
		for (k = 0; k < 2 && f == NULL; k++) {
			path = k == 0 ?
			    xasprintf("%s/%s.py", conf->python_path.item[i],
			    name) : xasprintf("%s/%s/__init__.py",
			    conf->python_path.item[i], name);
			f = fopen(path, "re");
			free(path);
		}
	free(name);
	return (f);
}

/* 0: it is not there. */
static uint64_t
module_digest(const struct conf_app *conf)
{
	struct buf b = { 0 };
	FILE *f = open_module(conf);
	uint64_t digest;
	size_t n;

	if (f == NULL)
		return (0);
	while ((n = fread(buf_reserve(&b, 65536), 1, 65536, f)) > 0)
		b.len += n;
	fclose(f);
	digest = part_hash(buf_slice(&b));
	buf_fini(&b);
	return (digest == 0 ? 1 : digest);
}

/* --- --copy -------------------------------------------------------------- */

struct catalog_row {
	uint64_t	start_time_ns, epoch, generation;
	uint32_t	workers;
	bool		clean;
	struct buf	topology;
	char		*run_dir;
};

static void __attribute__((noreturn))
give_up_db(sqlite3 *db, const char *path)
{
	give_up(EXIT_TEMPORARY, "%s: %s", path, sqlite3_errmsg(db));
}

static void
read_catalog(const char *dir, struct catalog_row *row)
{
	char *path = xasprintf("%s/catalog.sqlite", dir);
	sqlite3_stmt *st = NULL;
	sqlite3 *db;

	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) !=
	    SQLITE_OK)
		give_up_db(db, path);
	sqlite3_busy_timeout(db, 5000);
	if (sqlite3_prepare_v2(db, "SELECT start_time_ns, epoch, generation, "
	    "workers, clean, topology, run_dir FROM meta", -1, &st, NULL) !=
	    SQLITE_OK || sqlite3_step(st) != SQLITE_ROW)
		give_up_db(db, path);
	row->start_time_ns = (uint64_t)sqlite3_column_int64(st, 0);
	row->epoch = (uint64_t)sqlite3_column_int64(st, 1);
	row->generation = (uint64_t)sqlite3_column_int64(st, 2);
	row->workers = (uint32_t)sqlite3_column_int64(st, 3);
	row->clean = sqlite3_column_int(st, 4) != 0;
	buf_add(&row->topology, sqlite3_column_blob(st, 5),
	    (size_t)sqlite3_column_bytes(st, 5));
	row->run_dir = xstrdup((const char *)sqlite3_column_text(st, 6));
	sqlite3_finalize(st);
	sqlite3_close(db);
	free(path);
}

/* A whole transaction's view of the file, also while its owner commits. */
static uint64_t
copy_store(const char *from, const char *to)
{
	sqlite3 *src, *dst;
	sqlite3_backup *b;
	sqlite3_stmt *st = NULL;
	uint64_t position;
	int rc;

	if (sqlite3_open_v2(from, &src, SQLITE_OPEN_READONLY, NULL) !=
	    SQLITE_OK)
		give_up_db(src, from);
	if (sqlite3_open(to, &dst) != SQLITE_OK)
		give_up_db(dst, to);
	sqlite3_busy_timeout(src, 5000);
	if ((b = sqlite3_backup_init(dst, "main", src, "main")) == NULL)
		give_up_db(dst, to);
	while ((rc = sqlite3_backup_step(b, -1)) == SQLITE_BUSY ||
	    rc == SQLITE_LOCKED)
		sqlite3_sleep(20);
	if (sqlite3_backup_finish(b) != SQLITE_OK)
		give_up_db(dst, to);
	if (sqlite3_prepare_v2(dst, "SELECT position FROM meta", -1, &st,
	    NULL) != SQLITE_OK || sqlite3_step(st) != SQLITE_ROW)
		give_up_db(dst, to);
	position = (uint64_t)sqlite3_column_int64(st, 0);
	sqlite3_finalize(st);
	sqlite3_close(dst);
	sqlite3_close(src);
	return (position);
}

static void
write_about(const char *path, uint32_t worker, const struct conf_app *conf,
    const struct catalog_row *row)
{
	struct buf b = { 0 }, packed = { 0 };
	FILE *f;

	conf_pack(conf, &packed);
	mp_put_array(&b, 10);
	mp_put_str(&b, COPY_NAME);
	mp_put_uint(&b, COPY_VERSION);
	mp_put_uint(&b, worker);
	mp_put_uint(&b, row->workers);
	mp_put_uint(&b, row->epoch);
	mp_put_uint(&b, row->generation);
	mp_put_uint(&b, row->start_time_ns);
	mp_put_uint(&b, module_digest(conf));
	mp_put_bin(&b, packed.data, packed.len);
	mp_put_bin(&b, row->topology.data, row->topology.len);
	if ((f = fopen(path, "wxe")) == NULL ||
	    fwrite(b.data, 1, b.len, f) != b.len || fclose(f) != 0)
		give_up(EXIT_TEMPORARY, "%s: %s", path, strerror(errno));
	buf_fini(&b);
	buf_fini(&packed);
}

/*
 * The journal is copied after the checkpoint.  Meanwhile a newer checkpoint
 * may have freed what ours needs: then both once more.
 */
static void
copy_files(const char *store, const char *journal, uint32_t worker,
    const char *dir)
{
	char *to_store = xasprintf("%s/checkpoint.sqlite", dir);
	char *to_journal = xasprintf("%s/journal", dir);
	uint64_t head, position;
	struct err err;
	int tries;

	for (tries = 0;; tries++) {
		position = copy_store(store, to_store);
		if (journal_copy(journal, to_journal, worker, &head, &err) ==
		    -1)
			give_up(EXIT_TEMPORARY, "%s", err.text);
		if (head <= position)
			break;
		if (tries == COPY_TRIES)
			give_up(EXIT_TEMPORARY, "the worker takes checkpoints "
			    "faster than its journal can be copied: set "
			    "checkpoint-interval higher, or copy to a faster "
			    "disk");
		(void)unlink(to_store);
		(void)unlink(to_journal);
	}
	free(to_store);
	free(to_journal);
}

/* --copy CONF WORKER DIRECTORY */
int
replay_copy(int argc, char **argv)
{
	struct catalog_row row = { 0 };
	struct conf_app conf;
	struct err err;
	unsigned long worker;
	char *store, *journal, *about, *end;

	if (argc != 3)
		give_up(EXIT_PERMANENT, "--copy file worker directory");
	if (conf_read(&conf, argv[0], &err) == -1)
		give_up(EXIT_PERMANENT, "%s", err.text);
	read_catalog(conf.state_directory, &row);
	worker = strtoul(argv[1], &end, 10);
	if (*argv[1] < '0' || *argv[1] > '9' || *end != '\0' ||
	    worker >= row.workers)
		give_up(EXIT_PERMANENT, "there is no worker %s, only 0 to %u",
		    argv[1], row.workers - 1);
	if (row.clean)
		give_up(EXIT_PERMANENT, "the application was stopped cleanly: "
		    "its journals are empty, there is nothing to replay");
	(void)umask(077);
	if (mkdir(argv[2], 0700) == -1)
		give_up(EXIT_PERMANENT, "%s: %s", argv[2], strerror(errno));
	store = worker_db_path(conf.state_directory, (uint32_t)worker,
	    row.generation);
	journal = xasprintf("%s/worker-%lu.journal", row.run_dir, worker);
	about = xasprintf("%s/replay", argv[2]);
	copy_files(store, journal, (uint32_t)worker, argv[2]);
	write_about(about, (uint32_t)worker, &conf, &row);
	printf("%s has worker %lu: its state and its input.  These are your "
	    "users' data.\n", argv[2], worker);
	free(store);
	free(journal);
	free(about);
	free(row.run_dir);
	buf_fini(&row.topology);
	conf_fini(&conf);
	return (0);
}

/* --- --replay ------------------------------------------------------------ */

bool
replay_unpack(struct worker *w, struct replay_about *about)
{
	struct slice name;
	struct mp c;

	mp_init(&c, buf_slice(&about->bytes));
	if (mp_get_array(&c) != 10)
		c.bad = true;
	name = mp_get_str(&c);
	if (name.len != strlen(COPY_NAME) || memcmp(name.data, COPY_NAME,
	    name.len) != 0 || mp_get_uint(&c, UINT32_MAX) != COPY_VERSION)
		c.bad = true;
	w->me = (uint32_t)mp_get_uint(&c, UINT16_MAX);
	w->n = (uint32_t)mp_get_uint(&c, UINT16_MAX);
	w->epoch = mp_get_uint(&c, UINT64_MAX);
	w->generation = mp_get_uint(&c, UINT64_MAX);
	w->start_time_ns = mp_get_uint(&c, UINT64_MAX);
	about->module = mp_get_uint(&c, UINT64_MAX);
	about->conf = mp_get_bin(&c);
	about->topology = mp_get_bin(&c);
	return (mp_end(&c) && w->me < w->n);
}

static void
read_about(struct worker *w, const char *dir, struct replay_about *about)
{
	char *path = xasprintf("%s/replay", dir);
	FILE *f;

	if ((f = fopen(path, "re")) == NULL)
		give_up(EXIT_PERMANENT, "%s: %s: not a copy of a worker, made "
		    "by wallarooctl copy", path, strerror(errno));
	about->bytes.len = fread(buf_reserve(&about->bytes, COPY_MAX), 1,
	    COPY_MAX, f);
	fclose(f);
	if (!replay_unpack(w, about))
		give_up(EXIT_PERMANENT, "%s is not of this version of "
		    "wallaroo, or damaged", path);
	free(path);
}

static void
replace_path(struct conf_app *conf, const char *dir)
{
	size_t i;

	for (i = 0; i < conf->python_path.n; i++)
		free(conf->python_path.item[i]);
	free(conf->python_path.item);
	conf->python_path.item = xcalloc(1, sizeof(char *));
	conf->python_path.item[0] = realpath(dir, NULL);
	if (conf->python_path.item[0] == NULL)
		give_up(EXIT_PERMANENT, "%s: %s", dir, strerror(errno));
	conf->python_path.n = 1;
}

/* The module's file must be the one that ran. */
static void
check_module(const struct worker *w, const struct replay_about *about,
    bool force)
{
	uint64_t mine = module_digest(&w->conf);

	if (mine == about->module)
		return;
	(void)fprintf(stderr, "wallaroo-worker: %s: the file of module %s is "
	    "not the one that was copied from\n", force ? "warning" : "error",
	    w->conf.module);
	if (!force)
		give_up(EXIT_PERMANENT, "get that version, or say --force: "
		    "another one may compute something else");
}

/* So must the pipeline; with force, as far as states are found again. */
static void
check_pipeline(struct worker *w, bool force)
{
	struct buf mine = { 0 }, before = { 0 }, now = { 0 };
	struct topo topo;
	struct err err;

	if (w->a.host->describe(w->a.app, &mine, &err) == -1 ||
	    topo_parse(&topo, buf_slice(&mine), &err) == -1)
		give_up(EXIT_PERMANENT, "%s", err.text);
	topo_print(&w->topo, &before);
	topo_print(&topo, &now);
	if (before.len != now.len || memcmp(before.data, now.data,
	    now.len) != 0) {
		(void)fprintf(stderr, "wallaroo-worker: %s: the pipeline is "
		    "another one\nbefore:\n%snow:\n%s", force ? "warning" :
		    "error", buf_str(&before), buf_str(&now));
		if (!force)
			give_up(EXIT_PERMANENT, "get that version, or say "
			    "--force");
	}
	topo_fini(&w->topo);
	w->topo = topo;
	buf_fini(&mine);
	buf_fini(&before);
	buf_fini(&now);
}

static void
seek_generators(struct worker *w)
{
	struct err err;
	size_t i;

	for (i = 0; i < w->topo.nsources; i++)
		if (w->topo.sources[i].kind == SOURCE_GEN &&
		    !w->a.sources[i].ended && w->a.sources[i].off > 0 &&
		    w->a.host->generate_seek(w->a.app, w->topo.sources[i].fn,
		    w->a.sources[i].off, &err) == -1)
			give_up(EXIT_PERMANENT, "%s", err.text);
}

/* All that is in the journal; the exit code. */
static int
run_all(struct worker *w)
{
	uint64_t from = w->a.pos;
	struct err err;

	while (w->a.pos < journal_tail(&w->journal)) {
		if (automaton_run(&w->a, clock_mono_ns, 0, TURN_BYTES, &err) ==
		    -1) {
			printf("stopped at position %" PRIu64 ": %s\n",
			    w->a.stamp, err.text);
			return (1);
		}
		automaton_turn_clear(&w->a);
	}
	printf("replayed positions %" PRIu64 " to %" PRIu64 ": %" PRIu64
	    " records from sources, %" PRIu64 " frames from workers, %" PRIu64
	    " errors of user code, %" PRIu64 " entries that gave something "
	    "else than the first time\n", from, w->a.pos,
	    STAT_GET(w->stats, records_in), STAT_GET(w->stats, frames_in),
	    STAT_GET(w->stats, errors), STAT_GET(w->stats,
	    nondeterministic));
	return (0);
}

static void
usage(void)
{
	give_up(EXIT_PERMANENT, "--replay directory [--stop-at position | "
	    "--key key | --exception] [--python-path directory] [--force]");
}

static void
start_host(struct worker *w)
{
	struct origin o = { .time_ns = w->start_time_ns, .id = 1 };
	struct err err;
	int r;

	w->a.host = &host_python;
	determ_enter(&o, -2);
	r = w->a.host->open(&w->a.app, &w->conf, &err);
	determ_leave();
	if (r == -1)
		give_up(EXIT_PERMANENT, "%s", err.text);
}

/* --replay DIRECTORY [options] */
int
replay_run(struct worker *w, int argc, char **argv)
{
	static const struct option options[] = {
		{ "stop-at", required_argument, NULL, 's' },
		{ "key", required_argument, NULL, 'k' },
		{ "exception", no_argument, NULL, 'e' },
		{ "python-path", required_argument, NULL, 'p' },
		{ "force", no_argument, NULL, 'f' },
		{ NULL, 0, NULL, 0 }
	};
	struct replay_about about = { 0 };
	const char *path = NULL;
	bool force = false;
	struct err err;
	char *end;
	int ch;

	host_replay.on = true;
	while ((ch = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (ch) {
		case 's':
			host_replay.position = strtoull(optarg, &end, 10);
			if (*optarg < '0' || *optarg > '9' || *end != '\0')
				usage();
			host_replay.at_position = true;
			break;
		case 'k':
			host_replay.key = optarg;
			break;
		case 'e':
			host_replay.exception = true;
			break;
		case 'p':
			path = optarg;
			break;
		case 'f':
			force = true;
			break;
		default:
			usage();
		}
	if (argc - optind != 1 || host_replay.at_position +
	    (host_replay.key != NULL) + host_replay.exception > 1)
		usage();
	read_about(w, argv[optind], &about);
	if (conf_unpack(&w->conf, about.conf, &err) == -1 ||
	    topo_parse(&w->topo, about.topology, &err) == -1)
		give_up(EXIT_PERMANENT, "%s", err.text);
	if (path != NULL)
		replace_path(&w->conf, path);
	(void)fprintf(stderr, "This is a copy of production: its state and "
	    "input are your users' data.\n");
	check_module(w, &about, force);
	w->stats = xcalloc(1, STATS_SIZE);
	w->durable = true;
	start_host(w);
	check_pipeline(w, force);
	if (worker_make(w, &err) == -1)
		give_up(EXIT_PERMANENT, "%s", err.text);
	if (recover_replay(w, argv[optind], force, &err) == -1)
		give_up(EXIT_PERMANENT, "%s", err.text);
	seek_generators(w);
	ch = run_all(w);
	(void)fflush(stdout);
	store_close(&w->store);
	w->a.host->close(w->a.app);
	return (ch);
}
