/*
 * What a worker does before it works: find its checkpoint, its journal and
 * its outboxes, check that they belong together, and make the automaton as it
 * was.  The replay that follows is ordinary work of the loop.
 *
 * After a clean stop everything is in the SQLite file and the mapped files
 * are made anew.  After a kill they must be there, of this boot and of the
 * same lineage: else the start is refused, because what was accepted would
 * be lost and what was sent might be sent again.
 *
 * With durability = machine they may be of another boot.  Then nothing is
 * believed but the checkpoint, what its outboxes held, and the journal as far
 * as its hashes hold; where it ends is decided together with the other
 * workers (supervisor/cut.c), before anybody works.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/part.h"
#include "worker/mapped.h"
#include "worker/planted.h"
#include "worker/sizes.h"
#include "worker/worker.h"

#define CONN_SLACK	192	/* journal bytes for a connection's entries */
#define JOURNAL_MOST	((uint64_t)16 << 30)	/* as journal-size's limit */

/* Saved outboxes: see save_boxes in checkpoint.c. */
struct restore {
	struct worker	*w;
	struct outbox	*to;		/* of the frames that follow */
	uint64_t	 dropped;	/* frames of sinks that are no more */
	struct err	 err;
};

char *
worker_path(const struct worker *w, const char *suffix)
{
	if (!w->durable)
		return (NULL);
	return (xasprintf("%s/worker-%u.%s", w->run_dir, w->me, suffix));
}

char *
worker_db_path(const char *dir, uint32_t worker, uint64_t generation)
{
	return (xasprintf("%s/worker-%u.g%" PRIu64 ".sqlite", dir, worker,
	    generation));
}

static char *
peer_box_path(const struct worker *w, size_t i)
{
	char suffix[64];

	snprintf(suffix, sizeof(suffix), "x%zu.p%zu.outbox", i / w->n,
	    i % w->n);
	return (worker_path(w, suffix));
}

static char *
sink_box_path(const struct worker *w, size_t i)
{
	char suffix[64];

	snprintf(suffix, sizeof(suffix), "s%zu.outbox", i);
	return (worker_path(w, suffix));
}

static size_t
nboxes(const struct worker *w)
{
	return ((size_t)w->topo.nexchanges * w->n);
}

/* The clean stop's file has all of it, or nobody wants it any more. */
void
recover_unlink(struct worker *w)
{
	size_t i;
	char *path;

	if (!w->durable)
		return;
	for (i = 0; i < nboxes(w) + w->topo.nsinks + w->topo.nsources + 1;
	    i++) {
		if (i < nboxes(w))
			path = peer_box_path(w, i);
		else if (i < nboxes(w) + w->topo.nsinks)
			path = sink_box_path(w, i - nboxes(w));
		else if (i < nboxes(w) + w->topo.nsinks + w->topo.nsources)
			path = source_segment(w, i - nboxes(w) -
			    w->topo.nsinks);
		else
			path = worker_path(w, "journal");
		unlink(path);
		free(path);
	}
}

/* --- making everything anew -------------------------------------------- */

static int
create_boxes(struct worker *w, struct err *err)
{
	uint64_t limit = (uint64_t)w->conf.outbox_size;
	size_t i;
	char *path;
	int r = 0;

	for (i = 0; i < nboxes(w) && r == 0; i++) {
		if (i % w->n == w->me)
			continue;
		path = peer_box_path(w, i);
		r = outbox_create(&w->peer_box[i], path, limit, w->lineage, 0,
		    err);
		if (r == 0 && w->machine)
			outbox_seal(&w->peer_box[i]);
		free(path);
	}
	for (i = 0; i < w->topo.nsinks && r == 0; i++) {
		if (!w->sinks[i].mine)
			continue;
		path = sink_box_path(w, i);
		r = outbox_create(&w->sinks[i].box, path, limit, w->lineage,
		    committer_begins(&w->sinks[i]), err);
		if (r == 0 && w->machine)
			outbox_seal(&w->sinks[i].box);
		free(path);
	}
	return (r);
}

/* What entries of control and of connections may take of the journal. */
static uint64_t
control_room(const struct worker *w)
{
	uint64_t room = CONTROL_SLACK;
	size_t i;

	for (i = 0; i < w->topo.nsources; i++)
		if (source_listens(&w->topo.sources[i]))
			room += CONN_SLACK * (uint64_t)w->conf.connections;
	return (room);
}

/* Other workers and exchanges: from each comes what fits a window. */
static uint64_t
windows(const struct worker *w)
{
	return ((uint64_t)w->topo.nexchanges * (w->n - 1));
}

/* The largest message, which each window must hold. */
static uint64_t
window_least(const struct worker *w)
{
	return ((uint64_t)w->conf.max_message + FRAME_ROOM + ENTRY_HEADER +
	    FRAME_CHARGE);
}

/* The smallest journal that this application can work with. */
static uint64_t
journal_least(const struct worker *w)
{
	uint64_t share = windows(w) > 0 ? 2 : 1, n = windows(w) *
	    window_least(w) * share, control = control_room(w) * 2 * share;

	return (n > control ? n : control);
}

/* How the journal's room is divided: half is for the other workers. */
static int
shares(struct worker *w, uint64_t size, struct err *err)
{
	if (size < journal_least(w))
		return (err_set(err, ERR_CONFIG, "a journal of %" PRIu64
		    "M is too small for %u workers, %u exchanges, max-message "
		    "= %" PRId64 " and connections = %" PRId64 ": at least %"
		    PRIu64 "M is needed", size >> 20, w->n,
		    w->topo.nexchanges, w->conf.max_message,
		    w->conf.connections, (journal_least(w) >> 20) + 1));
	if (windows(w) > 0)
		w->window = size / 2 / windows(w);
	w->source_room = (windows(w) > 0 ? size / 2 : size) - control_room(w);
	return (0);
}

/* journal-size, or as much more as this application cannot do without. */
static int
journal_room(const struct worker *w, uint64_t *size, struct err *err)
{
	uint64_t least = journal_least(w);

	*size = (uint64_t)w->conf.journal_size;
	if (*size >= least)
		return (0);
	*size = ((least >> 20) + 1) << 20;
	if (*size > JOURNAL_MOST)
		return (err_set(err, ERR_CONFIG, "%u workers, %u exchanges and "
		    "max-message = %" PRId64 " need journals of %" PRIu64
		    "M, more than the %" PRIu64 "M that are possible: lower "
		    "max-message", w->n, w->topo.nexchanges,
		    w->conf.max_message, *size >> 20, JOURNAL_MOST >> 20));
	log_info("the journal is larger than journal-size: %u workers, %u "
	    "exchanges and max-message = %" PRId64 " need it size=%" PRIu64
	    "M", w->n, w->topo.nexchanges, w->conf.max_message, *size >> 20);
	return (0);
}

static int
create_files(struct worker *w, uint64_t start, struct err *err)
{
	uint64_t size;
	int r;

	/* Before anything is there that says this size. */
	if (journal_room(w, &size, err) == -1 || shares(w, size, err) == -1)
		return (-1);
	recover_unlink(w);
	FAULT_POINT(files_create_before);
	r = journal_create(&w->journal, w->journal_path, size, w->me,
	    w->lineage, start, err);
	if (r == 0 && w->machine)
		journal_seal(&w->journal);
	w->journal.clock_ns = w->saved_clock_ns;
	if (r == -1 || create_boxes(w, err) == -1)
		return (-1);
	checkpoint_count(w, w->commits);
	FAULT_POINT(files_create_after);
	return (0);
}

static int
restore_sink_head(struct restore *r, struct slice head, struct slice name)
{
	struct worker *w = r->w;
	struct outbox_sink s;
	size_t i;

	r->to = NULL;
	if (head.len != sizeof(s))
		return (err_set(&r->err, ERR_CORRUPT,
		    "saved outputs of a sink cannot be read"));
	memcpy(&s, head.data, sizeof(s));
	for (i = 0; i < w->topo.nsinks; i++) {
		if (strlen(w->topo.sinks[i].name) != name.len ||
		    memcmp(w->topo.sinks[i].name, name.data, name.len) != 0)
			continue;
		if (!w->sinks[i].mine)
			continue;
		s.conn = 0;		/* that connection is history */
		*outbox_sink(&w->sinks[i].box) = s;
		r->to = &w->sinks[i].box;
		outbox_begin(r->to, s.resume);
	}
	return (0);
}

static int
restore_frame(void *arg, uint32_t number, struct slice head,
    struct slice body)
{
	struct restore *r = arg;
	struct worker *w = r->w;
	struct frame f;
	uint32_t *lens = NULL;

	if (number >= BOX_SINKS && (number - BOX_SINKS) % 2 == 0)
		return (restore_sink_head(r, head, body));
	if (number < BOX_SINKS) {
		if (w->saved_shape != w->shape || number >= nboxes(w) ||
		    number % w->n == w->me)
			return (err_set(&r->err, ERR_REFUSED, "messages "
			    "between workers are still under way in a "
			    "pipeline of another shape: start the old "
			    "version and stop it again"));
		r->to = &w->peer_box[number];
	}
	if (r->to == NULL) {
		r->dropped++;
		return (0);
	}
	if (head.len != sizeof(f))
		return (err_set(&r->err, ERR_CORRUPT,
		    "saved outputs cannot be read"));
	memcpy(&f, head.data, sizeof(f));
	if (!frame_fits(&f, body))
		return (err_set(&r->err, ERR_CORRUPT,
		    "saved outputs cannot be read"));
	if (outbox_reserve(r->to, FRAME_HEADER + body.len, &r->err) == -1)
		return (-1);
	if (f.lens != 0) {
		lens = xmalloc(f.lens);
		memcpy(lens, body.data + f.len, f.lens);
	}
	if (outbox_tail(r->to) == 0 && f.lens != 0)
		outbox_begin(r->to, f.payload);
	outbox_append(r->to, &f, slice_of(body.data, f.len), lens);
	free(lens);
	return (0);
}

/* The file must say "not clean" before anything new is accepted. */
static int
mark_open(struct worker *w, struct err *err)
{
	struct store_job *j;
	int r;

	/* What the file still holds of outputs is given up below. */
	if (w->machine && durable_sync_all(w, err) == -1)
		return (-1);
	j = xcalloc(1, sizeof(*j));
	j->sync = true;
	j->remake = true;			/* no saved outputs */
	j->position = w->a.pos;
	j->lineage = w->lineage;
	j->commits = w->commits + 1;
	j->epoch = w->epoch;
	checkpoint_pack(w, &j->automaton);
	FAULT_POINT(mark_open_before);
	r = store_commit(&w->store, j, err);
	if (r == 0)
		checkpoint_count(w, j->commits);
	FAULT_POINT(mark_open_after);
	store_job_free(j);
	return (r);
}

static int
start_clean(struct worker *w, const struct store_meta *m, struct err *err)
{
	struct restore r = { .w = w };

	if (m->exists) {
		w->lineage = m->lineage;
		if (checkpoint_unpack(w, buf_slice(&m->automaton), err) == -1)
			return (-1);
	} else
		clock_random(&w->lineage, sizeof(w->lineage));
	w->lineage &= INT64_MAX;
	if (create_files(w, w->a.pos, err) == -1)
		return (-1);
	w->a.pos = w->a.entry = journal_tail(&w->journal);
	w->a.drop = w->a.pos;
	if (!w->durable)
		return (0);
	if (m->exists && store_boxes(&w->store, restore_frame, &r, err) ==
	    -1) {
		if (r.err.code != ERR_NONE)
			*err = r.err;
		return (-1);
	}
	if (r.dropped > 0)
		log_warn("saved outputs of a sink that is no more are given "
		    "up frames=%" PRIu64, r.dropped);
	return (mark_open(w, err));
}

/* --- opening what a kill left ------------------------------------------ */

/* A call that failed says nothing about what the file holds: that is no
 * loss, and the next try may work. */
static bool
is_damage(const struct err *err)
{
	return (err->code != ERR_STORAGE && err->code != ERR_SYSTEM);
}

/*
 * A file that has seen other commits than the database (one less: killed in
 * between) was put back to an older copy, or the database was.
 */
static int
check_commits(const struct worker *w, const char *path, uint64_t seen,
    struct buf *text, struct err *err)
{
	if (seen == w->commits || seen + 1 == w->commits)
		return (0);
	if (seen < w->commits)
		buf_addf(text, "%s is an older copy: it is of commit %" PRIu64
		    ", %s of commit %" PRIu64 "\n", path, seen,
		    w->store.path, w->commits);
	else
		buf_addf(text, "%s is an older copy: it is of commit %" PRIu64
		    ", %s of commit %" PRIu64 "\n", w->store.path,
		    w->commits, path, seen);
	return (err_set(err, ERR_REFUSED, "a file is an older copy"));
}

/* As it is after a kill, or as the checkpoint has it after a power loss. */
static int
open_box(struct worker *w, size_t i, const char *path, bool *missing,
    struct err *err)
{
	struct outbox *o = worker_box(w, i);
	struct slice snapshot = buf_slice(&w->snapshot[i]);

	if (w->lost)
		return (outbox_restore(o, path, w->lineage, snapshot,
		    missing, err));
	if (outbox_open(o, path, missing, err) == -1)
		return (-1);
	if (outbox_lineage(o) != w->lineage)
		return (err_set(err, ERR_REFUSED, "%s is of another life of "
		    "this worker", path));
	if (outbox_sealed(o) != w->machine)
		return (err_set(err, ERR_REFUSED, "%s was written with "
		    "another durability", path));
	return (w->machine ? outbox_keep(o, snapshot, err) : 0);
}

static int
open_boxes(struct worker *w, struct buf *text, struct err *err)
{
	uint64_t commits;
	bool missing;
	size_t i;
	char *path;
	int bad = 0;

	for (i = 0; i < worker_nboxes(w); i++) {
		if (worker_box(w, i) == NULL)
			continue;
		path = i < nboxes(w) ? peer_box_path(w, i) :
		    sink_box_path(w, i - nboxes(w));
		if (outbox_commits(path, &commits) == 0 &&
		    check_commits(w, path, commits, text, err) == -1)
			bad = 1;
		else if (w->machine && mapped_renew(path, err) == -1) {
			free(path);
			return (-1);
		} else if (open_box(w, i, path, &missing, err) == -1) {
			if (!missing && !is_damage(err)) {
				free(path);
				return (-1);
			}
			buf_addf(text, "%s\n", err->text);
			bad = 1;
		}
		free(path);
	}
	if (bad)
		return (err_set(err, ERR_REFUSED, "outboxes do not fit"));
	return (0);
}

/* R: everything up to here was permitted to leave. */
static uint64_t
released(struct worker *w)
{
	uint64_t r = journal_done(&w->journal);
	uint64_t off;
	struct frame f;
	size_t i;

	if (!planted("RULE1"))
		return (r);
	for (i = 0; i < nboxes(w); i++)	/* judged per outbox instead */
		if (i % w->n != w->me)
			for (off = outbox_head(&w->peer_box[i]);
			    off < outbox_tail(&w->peer_box[i]); ) {
				off = outbox_frame(&w->peer_box[i], off, &f);
				r = f.pos > r ? f.pos : r;
			}
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].mine)
			for (off = outbox_head(&w->sinks[i].box);
			    off < outbox_tail(&w->sinks[i].box); ) {
				off = outbox_frame(&w->sinks[i].box, off, &f);
				r = f.pos > r ? f.pos : r;
			}
	return (r);
}

static void
cut_boxes(struct worker *w)
{
	size_t i;

	if (planted("RULE1"))
		return;
	for (i = 0; i < worker_nboxes(w); i++)
		if (worker_box(w, i) != NULL && !(planted("RULE1B") &&
		    i < w->topo.nexchanges * w->n))
			outbox_cut(worker_box(w, i),
			    journal_done(&w->journal));
}

static int
check_positions(struct worker *w, struct buf *text, struct err *err)
{
	uint64_t head = journal_head_pos(&w->journal);
	uint64_t done = journal_done(&w->journal);

	if (head <= w->a.entry && w->a.entry <= w->a.pos && w->a.pos <= done)
		return (0);
	buf_addf(text, "positions disagree: journal head %" PRIu64
	    ", checkpoint %" PRIu64 ", done %" PRIu64 "\n", head, w->a.pos,
	    done);
	return (err_set(err, ERR_REFUSED, "journal and checkpoint do not "
	    "belong together"));
}

/* What would be lost or repeated without the mapped files. */
static void
describe_loss(struct worker *w, struct buf *text, const char *why)
{
	const struct mark *m;
	uint32_t x, p;

	buf_addf(text, "%s\n", why);
	buf_addf(text, "checkpoint at position %" PRIu64 ": input accepted "
	    "after it is lost; outputs made after it may be repeated\n",
	    w->a.pos);
	for (x = 0; x < w->topo.nexchanges; x++)
		for (p = 0; p < w->n; p++) {
			if (p == w->me)
				continue;
			m = &w->a.marks[channel_of(w, x, p)];
			buf_addf(text, "channel from worker %u exchange %u: "
			    "the checkpoint has it up to position %" PRIu64
			    "; messages after it may be lost or repeated\n",
			    p, x, m->pos);
		}
}

/* Has everything been processed and delivered, so that nothing depends on
 * the pipeline's shape any more? */
static bool
nothing_inside(struct worker *w)
{
	char prefix[32], *path;
	struct dirent *d;
	struct outbox o;
	bool missing, empty = true;
	struct err err;
	DIR *dir;

	if (journal_tail(&w->journal) != w->a.pos ||
	    (dir = opendir(w->run_dir)) == NULL)
		return (false);
	snprintf(prefix, sizeof(prefix), "worker-%u.", w->me);
	while (empty && (d = readdir(dir)) != NULL) {
		if (strncmp(d->d_name, prefix, strlen(prefix)) != 0 ||
		    strstr(d->d_name, ".outbox") == NULL)
			continue;
		path = xasprintf("%s/%s", w->run_dir, d->d_name);
		empty = outbox_open(&o, path, &missing, &err) == 0 &&
		    outbox_used(&o) == 0;
		outbox_close(&o);
		free(path);
	}
	closedir(dir);
	return (empty);
}

/* Pipes end with the machine; what is journaled of them counts. */
static void
forget_stdin(struct worker *w)
{
	size_t i;
	char *path;

	for (i = 0; i < w->topo.nsources; i++) {
		path = source_segment(w, i);
		(void)unlink(path);
		free(path);
	}
}

static int
start_lost(struct worker *w, struct buf *text, struct err *err)
{
	w->lost = true;
	FAULT_POINT(journal_prove_before);
	journal_prove(&w->journal, w->a.entry);
	FAULT_POINT(journal_prove_after);
	if (journal_tail(&w->journal) < w->a.pos) {
		buf_addf(text, "%s is whole up to position %" PRIu64 ", but "
		    "the checkpoint is at %" PRIu64 ": the disk does not "
		    "keep what it says it has synced, or a file was "
		    "changed\n", w->journal_path,
		    journal_tail(&w->journal), w->a.pos);
		return (err_set(err, ERR_REFUSED, "journal and checkpoint "
		    "do not belong together"));
	}
	journal_release(&w->journal, w->a.pos);
	FAULT_POINT(boxes_restore_before);
	if (open_boxes(w, text, err) == -1)
		return (-1);
	FAULT_POINT(boxes_restore_after);
	w->a.drop = w->a.pos;
	sink_lost(w);
	forget_stdin(w);
	log_warn("the power was lost position=%" PRIu64 " journal=%" PRIu64,
	    w->a.pos, journal_tail(&w->journal) - w->a.pos);
	return (0);
}

/* Open the journal that belongs to the checkpoint. */
static int
open_journal(struct worker *w, bool *old_boot, struct buf *text,
    struct err *err)
{
	bool missing;
	int renewed = w->machine ? mapped_renew(w->journal_path, err) : 0;
	int r;

	if (renewed == -1)
		return (-1);
	r = journal_open(&w->journal, w->journal_path, w->me, &missing,
	    old_boot, err);
	/* What could not be synced has left the memory, too. */
	if (r == -1 && renewed && err->code == ERR_CORRUPT) {
		log_error("%s", err->text);
		r = journal_disown(w->journal_path, err);
		if (r == 0)
			r = journal_open(&w->journal, w->journal_path, w->me,
			    &missing, old_boot, err);
	}
	if (r == -1) {
		if (missing || is_damage(err))
			describe_loss(w, text, err->text);
		return (-1);
	}
	if (w->journal.sealed != w->machine) {
		describe_loss(w, text, w->machine ? "the journal was written "
		    "with durability = process: start with that and stop "
		    "cleanly first" : "the journal was written with "
		    "durability = machine: start with that and stop cleanly "
		    "first");
		return (err_set(err, ERR_REFUSED, "durability"));
	}
	if (*old_boot && !w->machine) {
		describe_loss(w, text, "the machine was restarted since; "
		    "durability = process does not survive that");
		return (err_set(err, ERR_REFUSED, "old boot"));
	}
	if (journal_lineage(&w->journal) != w->lineage) {
		describe_loss(w, text, "the journal is of another life of "
		    "this worker");
		return (err_set(err, ERR_REFUSED, "lineage"));
	}
	return (check_commits(w, w->journal_path,
	    journal_commits(&w->journal), text, err));
}

/* Nothing is inside: the pipeline may have another shape now. */
static int
start_reshaped(struct worker *w, struct err *err)
{
	journal_close(&w->journal);
	if (create_files(w, w->a.pos, err) == -1)
		return (-1);
	w->a.pos = w->a.entry = w->a.drop = journal_tail(&w->journal);
	return (mark_open(w, err));
}

static int
start_unclean(struct worker *w, const struct store_meta *m, struct buf *text,
    struct err *err)
{
	bool old_boot;

	w->unclean = true;
	w->lineage = m->lineage;
	if (checkpoint_unpack(w, buf_slice(&m->automaton), err) == -1)
		return (-1);
	FAULT_POINT(files_open_before);
	if (open_journal(w, &old_boot, text, err) == -1)
		return (-1);
	if (w->saved_shape != w->shape && !old_boot && nothing_inside(w))
		return (start_reshaped(w, err));
	if (w->saved_shape != w->shape) {
		buf_addf(text, "the pipeline has changed while input was "
		    "inside: start the old version, stop it cleanly, then "
		    "start the new one\n");
		return (err_set(err, ERR_CONFIG, "pipeline changed"));
	}
	if (old_boot)
		return (start_lost(w, text, err));
	if (check_positions(w, text, err) == -1 ||
	    open_boxes(w, text, err) == -1)
		return (-1);
	/* Nothing above the checkpoint has left. */
	if (w->after_checkpoint && !planted("AFTER3"))
		journal_redo(&w->journal, w->a.pos);
	FAULT_POINT(files_open_after);
	w->a.drop = planted("RULE3") ? w->a.pos : released(w);
	if (planted("RULE3B") && w->a.drop > w->a.pos)
		w->a.drop--;			/* up to it, not itself */
	FAULT_POINT(boxes_cut_before);
	cut_boxes(w);
	FAULT_POINT(boxes_cut_after);
	return (0);
}

/* The operator accepts: begin at the checkpoint, under a new lineage. */
static int
start_lossy(struct worker *w, const struct store_meta *m, struct err *err)
{
	size_t i;

	for (i = 0; i < worker_nboxes(w); i++)
		if (worker_box(w, i) != NULL && worker_box(w, i)->h != NULL)
			outbox_close(worker_box(w, i));
	journal_close(&w->journal);
	w->lost = false;
	if (!m->exists)
		w->a.pos = 0;
	automaton_aside_forget(&w->a);
	memset(w->a.marks, 0, nboxes(w) * sizeof(*w->a.marks));
	automaton_forget_conns(&w->a);
	clock_random(&w->lineage, sizeof(w->lineage));
	w->lineage &= INT64_MAX;
	if (create_files(w, w->a.pos, err) == -1)
		return (-1);
	for (i = 0; i < w->topo.nsinks; i++)
		if (w->sinks[i].committer != NULL)
			committer_lost(&w->sinks[i]);
	w->a.pos = w->a.entry = journal_tail(&w->journal);
	w->a.drop = w->a.pos;
	return (mark_open(w, err));
}

/* --- the journal's view ------------------------------------------------- */

static void
note_conn(struct worker *w, uint64_t id, uint32_t source, uint64_t journaled,
    bool eof)
{
	struct conn *c;

	HASH_FIND(hh, w->conns, &id, sizeof(id), c);
	if (c == NULL) {
		c = xcalloc(1, sizeof(*c));
		c->w = w;
		c->id = id;
		c->fd = -1;
		c->source = source;
		HASH_ADD(hh, w->conns, id, sizeof(c->id), c);
	}
	if (journaled > c->journaled)
		c->journaled = journaled;
	c->eof |= eof;
}

static void
note_entry(struct worker *w, struct entry *e)
{
	struct conn *c;
	uint32_t source = 0;
	struct err err;

	switch ((enum entry_type)e->type) {
	case ENTRY_OPEN:
		if (e->len >= sizeof(source))
			memcpy(&source, e->data, sizeof(source));
		note_conn(w, e->channel, source, 0, false);
		break;
	case ENTRY_BYTES:
		note_conn(w, e->channel, 0, planted("RULE6B") ? 0 :
		    e->off + e->len, false);
		break;
	case ENTRY_FORGET:
		HASH_FIND(hh, w->conns, &e->channel, sizeof(e->channel), c);
		if (c != NULL) {
			HASH_DEL(w->conns, c);
			free(c);
		}
		break;
	case ENTRY_EOF:
		if (e->flags & ENTRY_SOURCE) {
			if (e->channel < w->topo.nsources)
				w->sources[e->channel].eof = true;
		} else
			note_conn(w, e->channel, 0, 0, true);
		break;
	case ENTRY_FILE:
	case ENTRY_GEN:
		if (e->channel < w->topo.nsources && !planted("RULE6"))
			w->sources[e->channel].journaled = e->off + e->len;
		break;
	case ENTRY_FRAME:
		(void)peer_scan(w, e, 1);
		break;
	case ENTRY_ASIDE:
		if (automaton_aside_add(&w->a, e, &err) == -1)
			worker_fatal_err(w, &err);
		break;
	case ENTRY_LETTER:
		putback_note(w, e);
		break;
	case ENTRY_TICK:
	case ENTRY_TYPES:
		break;
	}
}

/* A source goes on behind the last byte in its journal (rule 6). */
static void
note_journal(struct worker *w)
{
	struct in_conn *c, *next;
	struct entry *e;
	uint64_t at;
	size_t i;

	HASH_ITER(hh, w->a.conns, c, next)
		note_conn(w, c->id, c->source, c->off, c->eof);
	for (i = 0; i < w->topo.nsources; i++) {
		w->sources[i].journaled = w->a.sources[i].off;
		w->sources[i].eof = w->a.sources[i].ended &&
		    w->topo.sources[i].kind != SOURCE_GEN;
	}
	for (i = 0; i < nboxes(w); i++)
		w->journaled[i] = w->a.marks[i];
	for (at = journal_head_pos(&w->journal);
	    at < journal_tail(&w->journal); at = entry_end(e)) {
		e = journal_at(&w->journal, at);
		/* Before the checkpoint: only what takes room counts. */
		if (entry_end(e) <= w->a.pos && e->type != ENTRY_FRAME)
			continue;
		note_entry(w, e);
	}
}

/* What the journal's entries mean depends on these alone. */
static uint64_t
shape_of(const struct worker *w)
{
	struct buf b = { 0 };
	uint64_t digest;
	size_t i;

	buf_addf(&b, "%u %u\n", w->n, w->topo.nexchanges);
	for (i = 0; i < w->topo.nsources; i++)
		buf_addf(&b, "%s %d %d %d\n", w->topo.sources[i].name,
		    w->topo.sources[i].kind, w->topo.sources[i].next,
		    w->topo.sources[i].framing);
	for (i = 0; i < w->topo.nstages; i++)
		buf_addf(&b, "%s %d %d %d %d\n", w->topo.stages[i].name,
		    w->topo.stages[i].kind, w->topo.stages[i].next,
		    w->topo.stages[i].exchange, w->topo.stages[i].multi);
	for (i = 0; i < w->topo.nsinks; i++)
		buf_addf(&b, "%s %d %d\n", w->topo.sinks[i].name,
		    w->topo.sinks[i].kind, w->topo.sinks[i].exchange);
	digest = part_hash(buf_slice(&b));
	buf_fini(&b);
	return (digest);
}

/*
 * The file must be the one that the application's last start has opened:
 * starts are numbered, in each worker's file and in the supervisor's.
 */
static int
check_age(struct worker *w, const struct store_meta *m, struct buf *text,
    struct err *err)
{
	bool again = (w->flags & START_AGAIN) != 0;

	if (m->epoch >= w->opened && m->epoch < w->epoch + again)
		return (0);
	if (m->exists) {		/* in case that the loss is accepted */
		w->lineage = m->lineage;
		if (checkpoint_unpack(w, buf_slice(&m->automaton), err) == -1)
			return (-1);
	}
	if (m->epoch < w->opened)
		buf_addf(text, "%s is an older copy: it was last opened by "
		    "start %" PRIu64 ", catalog.sqlite says start %" PRIu64
		    "\n", w->store.path, m->epoch, w->opened);
	else {
		w->older = true;
		buf_addf(text, "catalog.sqlite is an older copy: it says that "
		    "this is start %" PRIu64 ", %s was opened by start %"
		    PRIu64 "\n", w->epoch, w->store.path, m->epoch);
	}
	return (err_set(err, ERR_REFUSED, "a file is an older copy"));
}

static int
start_durable(struct worker *w, const struct store_meta *m, struct buf *text,
    struct err *err)
{
	int r;

	w->commits = m->commits;
	if ((r = check_age(w, m, text, err)) == 0)
		r = !m->exists || m->clean ? start_clean(w, m, err) :
		    start_unclean(w, m, text, err);
	if (r == -1 && text->len > 0 && err->code != ERR_CONFIG &&
	    (w->flags & START_ACCEPT_LOSS))
		r = start_lossy(w, m, err);
	return (r);
}

/* The names of stages with state; to be freed. */
static const char **
store_steps(const struct worker *w)
{
	const char **steps = xcalloc(w->topo.nstages + 1, sizeof(*steps));
	size_t i;

	for (i = 0; i < w->topo.nstages; i++)
		if (stage_has_state(&w->topo.stages[i]))
			steps[i] = w->topo.stages[i].name;
	return (steps);
}

static int
open_durable(struct worker *w, struct buf *text, struct err *err)
{
	const char **steps = store_steps(w);
	struct store_meta m;
	char *path;
	int r;

	path = worker_db_path(w->conf.state_directory, w->me, w->generation);
	r = store_open(&w->store, path, w->me, steps, w->topo.nstages, &m,
	    err);
	free(path);
	free(steps);
	if (r == -1)
		return (-1);
	r = start_durable(w, &m, text, err);
	buf_fini(&m.automaton);
	if (r == -1 || load_begin(w, err) == -1)
		return (-1);
	/* What somebody may have restored is checked as a whole, before. */
	return (m.clean ? load_all(w, err) : 0);
}

/* Where the journal ends is decided. */
static int
settle(struct worker *w, struct err *err)
{
	if (w->durable && w->unclean &&
	    store_opened(&w->store, w->epoch, err) == -1)
		return (-1);
	checkpoint_count(w, w->commits);	/* killed before it was said */
	if (w->journal.clock_ns < w->saved_clock_ns)
		w->journal.clock_ns = w->saved_clock_ns;
	w->replay_to = journal_tail(&w->journal);
	w->committed = w->a.pos;
	STAT_SET(w->stats, journal_done, w->a.pos);
	if (w->machine)
		stable_init(&w->stable, w->n, w->topo.nexchanges, w->a.entry,
		    w->a.marks);
	note_journal(w);
	if (w->durable)
		poison_open(w);
	return (0);
}

static int
open_copy(struct worker *w, const char *dir, const struct store_meta *m,
    bool force, struct err *err)
{
	bool missing, old_boot;
	char *path = xasprintf("%s/journal", dir);
	int r;

	w->lineage = m->lineage;
	r = journal_open(&w->journal, path, w->me, &missing, &old_boot, err);
	free(path);
	if (r == -1 || checkpoint_unpack(w, buf_slice(&m->automaton), err) ==
	    -1)
		return (-1);
	if (journal_lineage(&w->journal) != w->lineage)
		return (err_set(err, ERR_REFUSED, "the journal is of another "
		    "life of this worker than the checkpoint"));
	if (w->saved_shape != w->shape && !force)
		return (err_set(err, ERR_REFUSED, "the pipeline is another "
		    "one than that of the checkpoint"));
	/* What was sealed proves itself on another machine, too. */
	if (old_boot && w->journal.sealed)
		journal_prove(&w->journal, w->a.entry);
	if (journal_head_pos(&w->journal) > w->a.entry || w->a.entry >
	    w->a.pos || w->a.pos > journal_tail(&w->journal))
		return (err_set(err, ERR_REFUSED, "journal and checkpoint do "
		    "not belong together"));
	return (0);
}

int
recover_replay(struct worker *w, const char *dir, bool force,
    struct err *err)
{
	const char **steps = store_steps(w);
	char *path = xasprintf("%s/checkpoint.sqlite", dir);
	struct store_meta m;
	int r;

	w->shape = shape_of(w);
	r = store_open(&w->store, path, w->me, steps, w->topo.nstages, &m,
	    err);
	free(path);
	free(steps);
	if (r == -1)
		return (-1);
	if (!m.exists)
		r = err_set(err, ERR_REFUSED, "the copy has no checkpoint");
	else
		r = open_copy(w, dir, &m, force, err);
	buf_fini(&m.automaton);
	/* All of it has left, as far as this run is concerned. */
	w->a.drop = UINT64_MAX;
	if (r == 0) {
		w->a.note = journal_note(&w->journal);
		r = load_begin(w, err) == -1 ? -1 : load_all(w, err);
	}
	return (r);
}

int
recover_open(struct worker *w, struct buf *text, struct err *err)
{
	struct store_meta none = { 0 };
	int r;

	w->shape = shape_of(w);
	w->journal_path = worker_path(w, "journal");
	r = w->durable ? open_durable(w, text, err) :
	    start_clean(w, &none, err);
	if (r == -1 || shares(w, w->journal.size, err) == -1)
		return (-1);
	STAT_SET(w->stats, keys, w->a.nkeys);
	return (w->lost ? 0 : settle(w, err));
}

/* The world as the journal knows it, when that is decided. */
void
recover_ends(struct worker *w)
{
	struct err err;

	if (sink_open(w, &err) == -1)
		worker_fatal_err(w, &err);
	source_open(w);
	log_info("open position=%" PRIu64 " journal=%" PRIu64 " keys=%" PRIu64,
	    w->a.pos, journal_tail(&w->journal) - w->a.pos, w->a.nkeys);
}

/* --- the cut after a power loss ------------------------------------------ */

/* A checkpoint holds only what was stable where it came from; a disk that has
 * lost what it had confirmed, or an older copy, is noticed here. */
static void
check_marks(const struct worker *w, const struct cut *cuts, struct buf *text)
{
	const struct mark *m;
	uint32_t x, p;

	for (x = 0; x < w->topo.nexchanges; x++)
		for (p = 0; p < w->n; p++) {
			m = &w->a.marks[channel_of(w, x, p)];
			if (p == w->me || m->lineage != cuts[p].lineage ||
			    m->pos <= cuts[p].pos)
				continue;
			buf_addf(text, "the checkpoint has messages that "
			    "worker %u made up to position %" PRIu64 ", and "
			    "its journal ends at %" PRIu64 "\n", p, m->pos,
			    cuts[p].pos);
			return;
		}
}

uint64_t
recover_cutoff(const struct worker *w, const struct cut *cuts,
    struct buf *text)
{
	uint64_t pos = stable_cutoff(&w->journal, w->a.entry, cuts, w->n);
	struct frame_head h;
	struct entry *e;

	if (planted("STABLE8"))		/* each for itself */
		return (journal_tail(&w->journal));
	if (pos > cuts[w->me].pos && cuts[w->me].lineage == w->lineage)
		pos = cuts[w->me].pos;
	if (pos >= w->a.pos) {
		check_marks(w, cuts, text);
		return (pos);
	}
	buf_addf(text, "the checkpoint is at position %" PRIu64 ", but the "
	    "journal can count only up to %" PRIu64, w->a.pos, pos);
	e = journal_at(&w->journal, pos);
	if (e != NULL && e->type == ENTRY_FRAME && e->len >= sizeof(h)) {
		memcpy(&h, e->data, sizeof(h));
		buf_addf(text, ": what follows is a message that worker %u "
		    "made at position %" PRIu64 ", and its journal ends at %"
		    PRIu64, (uint32_t)(e->channel >> 16), h.pos,
		    cuts[e->channel >> 16].pos);
	}
	buf_addf(text, "\n");
	return (pos);
}

int
recover_cut(struct worker *w, const struct cut *cuts, struct err *err)
{
	const struct cut *mine = &cuts[w->me];
	struct store_meta m = { .exists = true };

	if (!w->lost && mine->lineage == w->lineage &&
	    mine->pos >= journal_tail(&w->journal))
		return (0);
	if (!w->lost) {		/* what is above it was believed already */
		journal_distrust(&w->journal);
		return (err_set(err, ERR_STORAGE, "going back to position %"
		    PRIu64 " in the next life", mine->pos));
	}
	if (mine->lineage != w->lineage && !(w->flags & START_ACCEPT_LOSS))
		return (err_set(err, ERR_SYSTEM, "the cut is that of another "
		    "life of this worker"));
	if (mine->lineage != w->lineage) {
		if (start_lossy(w, &m, err) == -1)
			return (-1);
	} else if (journal_cut(&w->journal, w->journal_path, mine->pos,
	    err) == -1)
		return (-1);
	w->lost = false;
	return (settle(w, err));
}
