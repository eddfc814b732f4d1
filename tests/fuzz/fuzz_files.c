/* Targets of worker/: files that only a restart reads. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/mp.h"
#include "tests/fuzz/fuzz_worker.h"

/* --- snapshot ------------------------------------------------------------ */

static void
append(struct outbox *o, uint64_t pos)
{
	static const uint32_t lens[2] = { 4, 6 };
	struct frame f = { .pos = pos, .records = 2 };
	struct err err;

	if (outbox_reserve(o, 200, &err) == 0)
		outbox_append(o, &f, slice_of("0123456789", 10), lens);
}

/* What an outbox accepts it can go on with. */
static void
use_outbox(struct outbox *o)
{
	uint64_t off, next;
	struct frame f;
	struct buf b = { 0 };
	uint8_t byte;

	for (off = outbox_head(o); off < outbox_tail(o); off = next) {
		next = outbox_frame(o, off, &f);
		fuzz_check(next > off && next <= outbox_tail(o));
		outbox_read(o, next - 1, &byte, 1);
	}
	append(o, UINT64_MAX);
	outbox_snapshot(o, &b);
	outbox_committed(o);
	outbox_free(o, outbox_tail(o));
	fuzz_check(outbox_used(o) == 0);
	buf_fini(&b);
}

/* A sealed outbox and its snapshot, with pieces of the input over both:
 * first those of the snapshot, as many bytes as the second byte says. */
void
fuzz_snapshot(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n }, of_snapshot;
	uint64_t how = fuzz_number(&in, 1), first = fuzz_number(&in, 1);
	char path[] = "/dev/shm/wallaroo-fuzz-XXXXXX";
	struct buf b = { 0 };
	struct outbox o;
	struct err err;
	bool missing;
	int fd;

	if ((fd = mkstemp(path)) == -1 || unlink(path) == -1)
		fuzz_check(!"/dev/shm can be written");
	close(fd);
	fuzz_check(outbox_create(&o, path, 65536, 7, 0, &err) == 0);
	outbox_seal(&o);
	append(&o, 64);
	append(&o, 128);
	outbox_snapshot(&o, &b);
	outbox_committed(&o);
	append(&o, 192);
	if (first > in.n)
		first = in.n;
	of_snapshot = (struct fuzz_in){ in.p, first };
	in.p += first;
	in.n -= first;
	fuzz_patch_buf(&b, &of_snapshot);
	if (how & 2)
		b.len -= how >> 2 < b.len ? how >> 2 : b.len;
	fuzz_patch(o.fd, &in);
	outbox_close(&o);
	if (how & 1) {
		if (outbox_open(&o, path, &missing, &err) == 0) {
			if (outbox_keep(&o, buf_slice(&b), &err) == 0)
				use_outbox(&o);
			outbox_close(&o);
		}
	} else if (outbox_restore(&o, path, 7, buf_slice(&b), &missing,
	    &err) == 0) {
		use_outbox(&o);
		outbox_close(&o);
	}
	unlink(path);
	buf_fini(&b);
}

/* --- spread -------------------------------------------------------------- */

/* A saved frame, whose lengths may not be those of its records. */
static void
add_frame(struct store_job *j, uint32_t box, struct fuzz_in *in)
{
	uint64_t bits = fuzz_number(in, 1);
	uint32_t lens[2] = { bits & 3, bits >> 2 & 3 };
	struct frame f = { .records = 2, .lens = sizeof(lens) };
	struct slice body = fuzz_piece(in, 256);
	struct buf b = { 0 };

	if (bits & 16)
		lens[1] = (uint32_t)body.len - lens[0];
	if (bits & 32)
		f.payload = bits >> 6;
	f.len = (uint32_t)body.len;
	buf_add(&b, body.data, body.len);
	buf_add(&b, lens, sizeof(lens));
	store_job_box(j, box, slice_of(&f, sizeof(f)), buf_slice(&b));
	buf_fini(&b);
}

static void
add_items(struct store_job *j, struct fuzz_in *in)
{
	struct outbox_sink k = { .resume = 0 };
	struct slice s;
	uint64_t op;

	while (in->n > 0) {
		op = fuzz_number(in, 1);
		switch (op & 3) {
		case 0:
			s = fuzz_piece(in, 256);
			store_job_row(j, 2, s, fuzz_piece(in, 256));
			break;
		case 1:
			k.resume = op >> 2;
			store_job_box(j, BOX_SINKS + (op & 4 ? 2 : 0),
			    slice_of(&k, sizeof(k)), msg_cstr("tcp"));
			break;
		case 2:
			add_frame(j, BOX_SINKS + 1, in);
			break;
		default:
			s = fuzz_piece(in, 256);
			store_job_box(j, (uint32_t)(op >> 2) + (op & 4 ?
			    BOX_SINKS : 0), s, fuzz_piece(in, 256));
		}
	}
}

static const char *const steps[] = { NULL, NULL, "count" };

static void
make_store(const char *path, uint32_t worker, struct store_job *job)
{
	struct store_meta meta;
	struct store store;
	struct err err;

	fuzz_check(store_open(&store, path, worker, steps, 3, &meta, &err) ==
	    0 && store_commit(&store, job, &err) == 0);
	buf_fini(&meta.automaton);
	store_close(&store);
}

static int
on_row(void *arg, size_t step, struct slice key, struct slice value)
{
	(void)key;
	(void)value;
	fuzz_check(step == 2);
	++*(uint64_t *)arg;
	return (0);
}

static int
on_box(void *arg, uint32_t box, struct slice head, struct slice body)
{
	struct frame f;

	(void)arg;
	if (box % 2 == 0)
		return (0);
	fuzz_check(head.len == sizeof(f));
	memcpy(&f, head.data, sizeof(f));
	fuzz_check((uint64_t)f.len + f.lens == body.len);
	return (0);
}

/* What was made of them can be read. */
static void
read_store(const char *path, uint32_t worker)
{
	struct store_meta meta;
	struct store store;
	struct worker *w;
	struct err err;
	uint64_t rows = 0;

	fuzz_check(store_open(&store, path, worker, steps, 3, &meta, &err) ==
	    0);
	fuzz_check(store_rows(&store, on_row, &rows, &err) == 0);
	fuzz_check(store_boxes(&store, on_box, NULL, &err) == 0);
	w = fuzz_begin(&fuzz_pipeline, 2);
	fuzz_check(checkpoint_unpack(w, buf_slice(&meta.automaton), &err) ==
	    0);
	fuzz_end(w);
	buf_fini(&meta.automaton);
	store_close(&store);
}

static void
remove_store(char *path)
{
	static const char *const suffix[] = { "", "-wal", "-shm", "-journal" };
	char *more;
	size_t i;

	for (i = 0; i < 4; i++) {
		more = xasprintf("%s%s", path, suffix[i]);
		unlink(more);
		free(more);
	}
	free(path);
}

/* The file of one worker, its checkpoint patched, for two. */
void
fuzz_spread(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n }, of_checkpoint;
	uint64_t first = fuzz_number(&in, 1);
	char dir[] = "/dev/shm/wallaroo-fuzz-XXXXXX", *old, *new[2];
	struct worker *w = fuzz_begin(&fuzz_pipeline, 2);
	struct store_job job = { .position = 64, .lineage = 7, .commits = 1,
	    .clean = true, .remake = true };
	struct err err;
	uint32_t i;

	if (mkdtemp(dir) == NULL)
		fuzz_check(!"/dev/shm can be written");
	w->conf.state_directory = dir;
	w->me = 1;
	old = worker_db_path(dir, 0, 0);
	if (first > in.n)
		first = in.n;
	of_checkpoint = (struct fuzz_in){ in.p, first };
	in.p += first;
	in.n -= first;
	fuzz_pack_some(&job.automaton);
	fuzz_patch_buf(&job.automaton, &of_checkpoint);
	add_items(&job, &in);
	make_store(old, 0, &job);
	for (i = 0; i < 2; i++)
		new[i] = worker_db_path(dir, i, 1);
	if (respread(w, &err) == 0)
		for (i = 0; i < 2; i++)
			read_store(new[i], i);
	else
		fuzz_check(err.text[0] != '\0');
	buf_fini(&job.automaton);
	buf_fini(&job.rows);
	buf_fini(&job.boxes);
	remove_store(old);
	remove_store(new[0]);
	remove_store(new[1]);
	rmdir(dir);
	fuzz_end(w);
}

/* --- copy ---------------------------------------------------------------- */

void
fuzz_copy(const uint8_t *data, size_t n)
{
	struct worker *w = xcalloc(1, sizeof(*w));
	struct replay_about about = { 0 };
	struct conf_app conf;
	struct topo topo;
	struct err err;

	buf_add(&about.bytes, data, n);
	if (replay_unpack(w, &about)) {
		fuzz_check(w->me < w->n);
		if (conf_unpack(&conf, about.conf, &err) == 0)
			conf_fini(&conf);
		if (topo_parse(&topo, about.topology, &err) == 0)
			topo_fini(&topo);
	}
	buf_fini(&about.bytes);
	free(w);
}
