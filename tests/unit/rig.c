/* See rig.h. */
#include <sys/socket.h>
#include <sys/wait.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/part.h"
#include "tests/unit/rig.h"
#include "tests/unit/unit.h"

/* The end of a process that leaves everything as it is, which nobody who
 * looks for leaks is to see: it becomes another one. */
static void __attribute__((noreturn))
leave(int code)
{
	char command[32];

	snprintf(command, sizeof(command), "exit %d", code);
	(void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

/* What main.c does, without a supervisor to tell. */
void
worker_fatal(struct worker *w, int code, const char *fmt, ...)
{
	va_list ap;

	(void)w;
	va_start(ap, fmt);
	(void)vdprintf(STDERR_FILENO, fmt, ap);
	va_end(ap);
	(void)dprintf(STDERR_FILENO, "\n");
	leave(code);
}

void
worker_fatal_err(struct worker *w, const struct err *err)
{
	worker_fatal(w, err->code == ERR_STORAGE || err->code == ERR_SYSTEM ?
	    111 : 100, "%s", err->text);
}

/* --- the application ----------------------------------------------------- */

static struct topo_source sources[] = {
	{ .name = "lines", .kind = SOURCE_TCP, .framing = FRAMING_LINES,
	    .max_size = 100 },
};
static struct topo_stage stages[] = {
	{ .name = "count", .kind = STAGE_STATE, .next = 1, .exchange = -1 },
	{ .name = "late", .kind = STAGE_COUNT, .next = 2, .exchange = -1,
	    .timeout_ns = 1000000000 },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};
static struct topo_sink sinks[] = {
	{ .name = "tcp", .kind = SINK_TCP, .exchange = -1 },
	{ .name = "dead-letters", .kind = SINK_DEAD, .exchange = 0 },
};
static int exchange_stage[] = { -1 }, exchange_sink[] = { 1 };
const struct topo rig_topo = { .sources = sources, .nsources = 1,
	.stages = stages, .nstages = 3, .sinks = sinks, .nsinks = 2,
	.nexchanges = 1, .exchange_stage = exchange_stage,
	.exchange_sink = exchange_sink };

static int
h_save(struct host_app *h, int fn, const void *obj, struct buf *b,
    struct err *err)
{
	(void)h;
	(void)fn;
	(void)err;
	buf_add(b, obj, strlen(obj));
	return (0);
}

static void
h_free(struct host_app *h, void *obj)
{
	(void)h;
	free(obj);
}

struct host rig_host = { .name = "test", .abi = HOST_ABI,
	.state_save = h_save, .state_free = h_free };

/* --- directories --------------------------------------------------------- */

void
rig_dir_make(char *dir, size_t size)
{
	if (dir[0] != '\0')
		return;
	/* Thousands of files: not on a disk, where that can be had. */
	snprintf(dir, size, "%s/wallaroo-rig.XXXXXX",
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

void
rig_dir_remove(char *dir)
{
	struct dirent *e;
	DIR *d = opendir(dir);

	ck_assert_ptr_nonnull(d);
	while ((e = readdir(d)) != NULL)
		(void)unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
	ck_assert_int_eq(rmdir(dir), 0);
	dir[0] = '\0';
}

/* --- the worker ---------------------------------------------------------- */

void
rig_make_of(struct worker *w, const char *dir, const struct topo *topo)
{
	struct err err;

	memset(w, 0, sizeof(*w));
	w->n = 2;
	w->conf.partitions = 256;
	w->conf.max_message = 1000;
	w->conf.journal_size = 2 << 20;
	w->conf.outbox_size = 1 << 20;
	w->conf.outbox_mark = 64 << 10;
	w->conf.connections = 4;
	w->conf.durability = CONF_PROCESS;
	w->conf.state_directory = xstrdup(dir);
	w->run_dir = xstrdup(dir);
	w->death = xstrdup("");
	w->topo = *topo;
	w->durable = true;
	w->epoch = 1;
	w->flags = START_AGAIN;
	w->stats = xcalloc(1, STATS_SIZE);
	w->a.host = &rig_host;
	ck_assert_int_eq(worker_make(w, &err), 0);
}

void
rig_make(struct worker *w, const char *dir)
{
	rig_make_of(w, dir, &rig_topo);
}

void
rig_machine(struct worker *w)
{
	w->conf.durability = CONF_MACHINE;
	w->machine = true;
}

static void
free_conns(struct worker *w)
{
	struct conn *c, *next;

	HASH_ITER(hh, w->conns, c, next) {
		HASH_DEL(w->conns, c);
		free(c);
	}
}

void
rig_free(struct worker *w)
{
	size_t i;

	journal_close(&w->journal);
	for (i = 0; i < (size_t)w->topo.nexchanges * w->n; i++)
		outbox_close(&w->peer_box[i]);
	for (i = 0; i < w->topo.nsinks; i++)
		outbox_close(&w->sinks[i].box);
	load_end(w);
	store_close(&w->store);
	store_job_free(w->retry);
	store_job_free(w->held);
	store_job_free(w->taking);
	stable_fini(&w->stable);
	free_conns(w);
	buf_fini(&w->control_out);
	free(w->stats);
	free(w->run_dir);
	free(w->death);
	free(w->journal_path);
	worker_unmake(w);
	free(w->conf.state_directory);
}

/* --- what it does -------------------------------------------------------- */

void
rig_entry(struct journal *j, const char *text)
{
	memcpy(journal_stage(j, ENTRY_BYTES, 1, 0, 100, 0), text,
	    strlen(text));
	journal_publish(j, (uint32_t)strlen(text));
}

void
rig_frame(struct outbox *o, uint64_t pos, const char *text)
{
	struct frame f = { .pos = pos, .records = 1 };
	uint32_t len = (uint32_t)strlen(text);
	struct err err;

	ck_assert_int_eq(outbox_reserve(o, 1000, &err), 0);
	outbox_append(o, &f, slice_of(text, len), &len);
}

void
rig_live(struct worker *w, const char *text)
{
	rig_entry(&w->journal, text);
	w->a.entry = w->a.pos = journal_tail(&w->journal);
	rig_frame(&w->peer_box[1], w->a.pos, text);
	rig_frame(&w->sinks[0].box, w->a.pos, text);
	journal_release(&w->journal, w->a.pos);
}

struct store_job *
rig_job(struct worker *w, const char *value, bool clean)
{
	struct store_job *j = xcalloc(1, sizeof(*j));

	j->position = w->a.pos;
	j->lineage = w->lineage;
	j->commits = w->commits + 1;
	j->clean = j->sync = j->remake = clean;
	checkpoint_pack(w, &j->automaton);
	store_job_row(j, 0, slice_of("key", 3), slice_of(value,
	    strlen(value)));
	return (j);
}

void
rig_commit(struct worker *w, struct store_job *j)
{
	struct err err;
	size_t i;

	ck_assert_msg(store_commit(&w->store, j, &err) == 0, "%s", err.text);
	checkpoint_count(w, j->commits);
	for (i = 0; w->machine && i < worker_nboxes(w); i++)
		if (worker_box(w, i) != NULL)
			outbox_committed(worker_box(w, i));
	store_job_free(j);
}

void
rig_save(struct worker *w, const char *value, bool clean)
{
	rig_commit(w, rig_job(w, value, clean));
}

/* --- a process of its own ------------------------------------------------ */

/* The channel's number must not become that of a file of libcheck's. */
static void __attribute__((constructor))
reserve_channel(void)
{
	int fd;

	while ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) != -1 &&
	    fd < WORKER_CHANNEL)
		continue;
	if (fd > WORKER_CHANNEL)
		close(fd);
}

static void
read_all(int fd, struct buf *b)
{
	ssize_t n;

	do {
		n = read(fd, buf_reserve(b, 65536), 65536);
		if (n > 0)
			b->len += (size_t)n;
	} while (n > 0 || (n == -1 && errno == EINTR));
}

static void __attribute__((noreturn))
be_child(void (*f)(void), const int *channel, const int *words)
{
	(void)dup2(words[1], STDERR_FILENO);
	(void)close(words[0]);
	(void)close(words[1]);
	(void)dup2(channel[1], WORKER_CHANNEL);
	(void)close(channel[0]);
	(void)close(channel[1]);
	f();
	leave(99);
}

int
rig_child(void (*f)(void), struct buf *control, char *text, size_t size)
{
	int channel[2], words[2], status;
	struct buf said = { 0 }, sent = { 0 };
	pid_t pid;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
	    channel), 0);
	ck_assert_int_eq(pipe2(words, O_CLOEXEC), 0);
	fflush(NULL);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		be_child(f, channel, words);
	close(channel[1]);
	close(words[1]);
	read_all(words[0], &said);
	read_all(channel[0], &sent);
	close(channel[0]);
	close(words[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status), "status %#x: %s", (unsigned)status,
	    buf_str(&said));
	if (text != NULL)
		snprintf(text, size, "%s", buf_str(&said));
	if (control != NULL)
		buf_add(control, sent.data, sent.len);
	buf_fini(&said);
	buf_fini(&sent);
	return (WEXITSTATUS(status));
}
