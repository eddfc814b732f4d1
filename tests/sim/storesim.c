/*
 * The worker's database with store.h's interface: transactions that are whole
 * or not there, a writer that takes its time, fails, or dies with its process
 * before or after the commit.  SQLite itself is tested elsewhere.
 */
#include <stdlib.h>
#include <string.h>

#define SIM_KERNEL
#include "common/mem.h"
#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_sys.h"
#include "worker/storeread.h"

struct row {
	uint32_t	 number;	/* step, or box */
	uint32_t	 first, second;	/* bytes of key and value */
	uint32_t	 room;		/* of value */
	uint8_t		*data;
};
struct db {
	bool		 exists, clean;
	uint64_t	 owner, lineage, position, epoch, commits;
	struct bytes	 automaton;
	struct row	*row;
	size_t		 nrows, rows_cap;
	struct row	*box;
	size_t		 nboxes, boxes_cap;
	/* As of the last commit that was synced, when others came since. */
	struct db	*synced;
	struct db	*kept;		/* an older copy */
	/* The writer thread of the process that has it open. */
	int		 pid;
	struct store	*store;
	struct store_job *job, *done;
};
static struct db dbs[WORKERS];

/* --- what is saved ------------------------------------------------------- */

static void
drop_rows(struct row *row, size_t *n)
{
	while (*n > 0)
		free(row[--*n].data);
}

static void
drop_db(struct db *d)
{
	drop_rows(d->row, &d->nrows);
	drop_rows(d->box, &d->nboxes);
	free(d->row);
	free(d->box);
	bytes_free(&d->automaton);
	free(d);
}

static struct row *
copy_rows(const struct row *from, size_t n)
{
	struct row *r = calloc(n + 1, sizeof(*r));
	size_t i, len;

	for (i = 0; i < n; i++) {
		r[i] = from[i];
		len = (size_t)from[i].first + from[i].second + 1;
		r[i].data = malloc(len);
		memcpy(r[i].data, from[i].data, len);
	}
	return (r);
}

static struct db *
copy_db(const struct db *d)
{
	struct db *c = malloc(sizeof(*c));

	*c = *d;
	c->row = copy_rows(d->row, d->nrows);
	c->rows_cap = d->nrows + 1;
	c->box = copy_rows(d->box, d->nboxes);
	c->boxes_cap = d->nboxes + 1;
	memset(&c->automaton, 0, sizeof(c->automaton));
	bytes_put(&c->automaton, d->automaton.p + d->automaton.head,
	    d->automaton.len);
	c->synced = c->kept = NULL;
	return (c);
}

/* d becomes what was kept of it. */
static void
put_back(struct db *d, struct db *from)
{
	struct db *kept = d->kept;

	drop_rows(d->row, &d->nrows);
	drop_rows(d->box, &d->nboxes);
	free(d->row);
	free(d->box);
	bytes_free(&d->automaton);
	*d = *from;
	d->kept = kept;
	free(from);
}

static void
all_synced(struct db *d)
{
	if (d->synced != NULL)
		drop_db(d->synced);
	d->synced = NULL;
}

/* Commits that were not synced may be there or not. */
void
store_sim_power_loss(void)
{
	uint32_t i;

	for (i = 0; i < WORKERS; i++) {
		struct db *d = &dbs[i];

		if (d->synced != NULL && rng_one_in(&plan.sched, 2)) {
			trace("worker %u: commits that were not synced are "
			    "lost", i);
			put_back(d, d->synced);
		}
		all_synced(d);
	}
}

void
store_sim_reset(void)
{
	uint32_t i;

	for (i = 0; i < WORKERS; i++) {
		drop_rows(dbs[i].row, &dbs[i].nrows);
		drop_rows(dbs[i].box, &dbs[i].nboxes);
		all_synced(&dbs[i]);
		if (dbs[i].kept != NULL)
			drop_db(dbs[i].kept);
		dbs[i].kept = NULL;
		bytes_free(&dbs[i].automaton);
		dbs[i].exists = dbs[i].clean = false;
		dbs[i].owner = dbs[i].lineage = 0;
		dbs[i].position = dbs[i].epoch = dbs[i].commits = 0;
		dbs[i].job = dbs[i].done = NULL;
		dbs[i].pid = 0;
	}
}

void
store_sim_rows(uint32_t worker, void (*each)(void *, size_t, struct slice,
    struct slice), void *arg)
{
	const struct db *d = &dbs[worker];
	size_t i;

	for (i = 0; i < d->nrows; i++)
		each(arg, d->row[i].number, slice_of(d->row[i].data,
		    d->row[i].first), slice_of(d->row[i].data +
		    d->row[i].first, d->row[i].second));
}

bool
store_sim_exists(uint32_t worker)
{
	return (dbs[worker].exists);
}

bool
store_sim_clean(uint32_t worker)
{
	return (dbs[worker].exists && dbs[worker].clean);
}

uint64_t
store_sim_commits(uint32_t worker)
{
	return (dbs[worker].commits);
}

uint64_t
store_sim_position(uint32_t worker)
{
	return (dbs[worker].position);
}

void
store_sim_keep(uint32_t worker)
{
	dbs[worker].kept = copy_db(&dbs[worker]);
}

void
store_sim_put_back(uint32_t worker)
{
	struct db *d = &dbs[worker], *from = d->kept;

	if (from == NULL)
		return;
	d->kept = NULL;
	put_back(d, from);
	d->pid = 0;
	d->job = d->done = NULL;
	d->store = NULL;
}

static struct row *
new_row(struct row **rows, size_t *n, size_t *cap, const struct store_item *it)
{
	struct row *r;

	if (*n == *cap) {
		*cap = *cap == 0 ? 64 : *cap * 2;
		*rows = realloc(*rows, *cap * sizeof(**rows));
	}
	r = &(*rows)[(*n)++];
	r->number = it->number;
	r->first = it->first;
	r->second = it->second;
	r->data = malloc((size_t)it->first + it->second + 1);
	return (r);
}

static void
put_row(struct db *d, const struct store_item *it, const uint8_t *p)
{
	struct row *r = NULL;
	size_t i;

	for (i = 0; i < d->nrows && r == NULL; i++)
		if (d->row[i].number == it->number && d->row[i].first ==
		    it->first && memcmp(d->row[i].data, p, it->first) == 0)
			r = &d->row[i];
	if (it->second == 0) {		/* it has expired */
		if (r != NULL) {
			free(r->data);
			*r = d->row[--d->nrows];
		}
		return;
	}
	if (r == NULL)
		r = new_row(&d->row, &d->nrows, &d->rows_cap, it);
	else if (r->second != it->second) {
		r->data = realloc(r->data, (size_t)it->first + it->second + 1);
		r->second = it->second;
	}
	memcpy(r->data, p, (size_t)it->first + it->second);
}

static void
commit(struct db *d, const struct store_job *j)
{
	const uint8_t *p = j->rows.data, *end = p + j->rows.len;
	struct slice key, value;
	struct store_item it;
	struct row *r;

	if (disks && !j->sync && d->synced == NULL)
		d->synced = copy_db(d);
	else if (j->sync)
		all_synced(d);
	d->exists = true;
	d->clean = j->clean;
	d->lineage = j->lineage;
	d->position = j->position;
	d->commits = j->commits;
	if (j->epoch != 0)
		d->epoch = j->epoch;
	bytes_skip(&d->automaton, d->automaton.len);
	bytes_put(&d->automaton, j->automaton.data, j->automaton.len);
	while (store_item_next(&p, end, &it, &key, &value))
		put_row(d, &it, key.data);
	if (j->remake) {
		drop_rows(d->box, &d->nboxes);
		p = j->boxes.data;
		end = p + j->boxes.len;
		while (store_item_next(&p, end, &it, &key, &value)) {
			r = new_row(&d->box, &d->nboxes, &d->boxes_cap, &it);
			memcpy(r->data, key.data, key.len + value.len);
		}
	}
	counts.checkpoints++;
	trace("committed position=%llu clean=%d", (unsigned long long)
	    j->position, j->clean);
}

/* --- store.h ------------------------------------------------------------- */

static struct db *
db_of(const struct store *s)
{
	return ((struct db *)s->db);	/* in SQLite's place */
}

int
store_open(struct store *s, const char *path, uint32_t worker,
    const char *const *steps, size_t nsteps, struct store_meta *m,
    struct err *err)
{
	struct db *d = &dbs[worker];
	size_t i;

	(void)err;
	memset(s, 0, sizeof(*s));
	memset(m, 0, sizeof(*m));
	point(PT_open, false);
	s->path = xstrdup(path);
	s->step_id = xcalloc(nsteps + 1, sizeof(*s->step_id));
	for (i = 0; i < nsteps; i++)
		s->step_id[i] = steps[i] == NULL ? -1 : (int64_t)i;
	s->db = (sqlite3 *)d;
	s->owner = d->owner = rng_next(&plan.sched) >> 1;
	m->exists = d->exists;
	m->clean = d->clean;
	m->lineage = d->lineage;
	m->position = d->position;
	m->epoch = d->epoch;
	m->commits = d->commits;
	buf_add(&m->automaton, d->automaton.p, d->automaton.len);
	d->pid = current->pid;
	d->job = d->done = NULL;
	return (0);
}

/* --- storeread.h: of the file as it is when it begins ------------------- */

struct storeread {
	struct row	*row;
	size_t		 n, at;
	bool		 done[64];	/* of a step: all was given */
};

/* A process that is killed frees nothing: its worker's next one does. */
static struct storeread *reading[WORKERS];

/* A worker ends when it cannot read, so less often than it cannot write. */
static bool
read_fails(void)
{
	return (plan.db_errors != 0 && sometimes(plan.db_errors * 100));
}

static void
end_reading(size_t worker)
{
	struct storeread *r = reading[worker];

	if (r == NULL)
		return;
	drop_rows(r->row, &r->n);
	free(r->row);
	free(r);
	reading[worker] = NULL;
}

struct storeread *
storeread_new(struct store *s, struct err *err)
{
	const struct db *d = db_of(s);
	size_t w = (size_t)(d - dbs);

	if (read_fails()) {
		(void)err_set(err, ERR_STORAGE, "%s: disk I/O error",
		    s->path);
		return (NULL);
	}
	end_reading(w);
	reading[w] = calloc(1, sizeof(*reading[w]));
	reading[w]->row = copy_rows(d->row, d->nrows);
	reading[w]->n = d->nrows;
	return (reading[w]);
}

void
storeread_free(struct storeread *r)
{
	size_t i;

	for (i = 0; i < WORKERS; i++)
		if (r != NULL && reading[i] == r)
			end_reading(i);
}

static struct slice
key_of(const struct row *r)
{
	return (slice_of(r->data, r->first));
}

static struct slice
value_of(const struct row *r)
{
	return (slice_of(r->data + r->first, r->second));
}

int
storeread_key(struct storeread *r, size_t step, struct slice key,
    struct slice *value, struct err *err)
{
	size_t i;

	if (read_fails())
		return (err_set(err, ERR_STORAGE, "disk I/O error"));
	for (i = 0; i < r->n; i++)
		if (r->row[i].number == step && r->row[i].first == key.len &&
		    memcmp(r->row[i].data, key.data, key.len) == 0) {
			*value = value_of(&r->row[i]);
			return (1);
		}
	return (0);
}

int
storeread_step(struct storeread *r, size_t step, storeread_row *row,
    void *arg, struct err *err)
{
	size_t i;

	(void)err;
	for (i = 0; i < r->n; i++)
		if (r->row[i].number == step && row(arg, step,
		    key_of(&r->row[i]), value_of(&r->row[i])) == -1)
			return (-1);
	r->done[step] = true;
	return (0);
}

int
storeread_next(struct storeread *r, size_t most, storeread_row *row,
    void *arg, struct err *err)
{
	const struct row *e;

	if (read_fails())
		return (err_set(err, ERR_STORAGE, "disk I/O error"));
	while (r->at < r->n && most > 0) {
		e = &r->row[r->at++];
		if (r->done[e->number])
			continue;
		most--;
		if (row(arg, e->number, key_of(e), value_of(e)) == -1)
			return (-1);
	}
	return (r->at < r->n);
}

int
store_boxes(struct store *s, int (*frame)(void *, uint32_t, struct slice,
    struct slice), void *arg, struct err *err)
{
	const struct db *d = db_of(s);
	size_t i;

	for (i = 0; i < d->nboxes; i++)
		if (frame(arg, d->box[i].number, slice_of(d->box[i].data,
		    d->box[i].first), slice_of(d->box[i].data +
		    d->box[i].first, d->box[i].second)) == -1)
			return (err_set(err, ERR_CORRUPT, "saved outputs"));
	return (0);
}

/* Owner and position are compared inside the transaction. */
static int
try_commit(const struct store *s, const struct store_job *j,
    struct err *err)
{
	struct db *d = db_of(s);

	if (sometimes(plan.db_errors))
		return (err_set(err, ERR_STORAGE, "%s: disk I/O error",
		    s->path));
	if (d->owner != s->owner || (d->exists && d->position > j->position))
		return (err_set(err, ERR_REFUSED, "%s: another process owns "
		    "this file now, or holds a newer checkpoint", s->path));
	commit(d, j);
	return (0);
}

int
store_commit(struct store *s, struct store_job *j, struct err *err)
{
	int r;

	point(PT_store_commit, false);
	r = try_commit(s, j, err);
	point(PT_store_commit, true);
	return (r);
}

int
store_opened(struct store *s, uint64_t epoch, struct err *err)
{
	point(PT_store_commit, false);
	if (sometimes(plan.db_errors))
		return (err_set(err, ERR_STORAGE, "%s: disk I/O error",
		    s->path));
	db_of(s)->epoch = epoch;
	point(PT_store_commit, true);
	return (0);
}

/* --- the writer ---------------------------------------------------------- */

static void
tell(void *arg)
{
	struct db *d = arg;
	struct store_job *j = d->job;

	j->ok = try_commit(d->store, j, &j->err) == 0;
	d->job = NULL;
	d->done = j;
}

static void
notify(void *arg)
{
	struct db *d = arg;

	d->store->writer.notify(d->store->writer.arg);
}

static void
write_event(void *arg, uint64_t pid)
{
	struct db *d = arg;
	struct proc *p = proc_find((int)pid);

	if (p == NULL || p->life != PROC_LIVE || d->pid != (int)pid ||
	    d->job == NULL || point_of(p, PT_store_commit, false))
		return;
	proc_call(p, tell, d);
	if (!point_of(p, PT_store_commit, true))
		proc_call(p, notify, d);
}

int
store_start(struct store *s, void (*notice)(void *), void *arg,
    struct err *err)
{
	(void)err;
	s->writer.notify = notice;
	s->writer.arg = arg;
	s->writer.running = true;
	db_of(s)->store = s;
	return (0);
}

void
store_give(struct store *s, struct store_job *j)
{
	struct db *d = db_of(s);

	d->job = j;
	sched_at(now_ns + rng_range(&plan.sched, 20 * US, sometimes(4) ?
	    40 * MS : 2 * MS), write_event, d, (uint64_t)current->pid);
}

struct store_job *
store_take(struct store *s)
{
	struct db *d = db_of(s);
	struct store_job *j = d->done;

	d->done = NULL;
	return (j);
}

/* The thread finishes its job first. */
void
store_stop(struct store *s)
{
	struct db *d = db_of(s);

	if (!s->writer.running)
		return;
	s->writer.running = false;
	point(PT_store_commit, false);
	if (d->job == NULL)
		return;			/* it has, meanwhile */
	d->job->ok = try_commit(s, d->job, &d->job->err) == 0;
	d->done = d->job;
	d->job = NULL;
	point(PT_store_commit, true);
}

void
store_close(struct store *s)
{
	store_stop(s);
	sim_free(s->path);
	sim_free(s->step_id);
	memset(s, 0, sizeof(*s));
}

/* SIGKILL finds the writer anywhere: what it had may be there or not. */
void
store_sim_death(struct proc *p)
{
	uint32_t i;

	for (i = 0; i < WORKERS; i++) {
		struct db *d = &dbs[i];

		if (d->pid != p->pid)
			continue;
		if (d->job != NULL && d->store != NULL && sometimes(2) &&
		    (!d->exists || d->position <= d->job->position))
			commit(d, d->job);
		d->job = d->done = NULL;
		d->store = NULL;
		d->pid = 0;
	}
}
