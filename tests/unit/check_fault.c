/* Fault points: when a plan fires, in whom, and what calls suffer. */
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "tests/unit/unit.h"

static struct fault_page *page;

/* The page is opened before main: this program gives itself one and starts
 * anew. */
static void __attribute__((constructor(101)))
give_page(void)
{
	static char entry[128];
	struct fault_page none = { .magic = FAULT_MAGIC,
	    .points = FAULT_POINTS, .kinds = FAULT_KINDS_END };
	int fd = memfd_create("faults", 0);

	if (fd == -1 || ftruncate(fd, sizeof(none)) == -1 ||
	    pwrite(fd, &none, sizeof(none), 0) != (ssize_t)sizeof(none))
		abort();
	snprintf(entry, sizeof(entry), "/proc/self/fd/%d", fd);
	setenv("WALLAROO_FAULTS", entry, 1);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED,
	    fd, 0);
	if (page == MAP_FAILED)
		abort();
}

static struct fault_plan *
arm(int i, enum fault_point point, enum fault_kind kind, int64_t count)
{
	struct fault_plan *p = &page->plan[i];

	p->point = (uint32_t)point;
	p->kind = (uint32_t)kind;
	p->worker = p->after = FAULT_ANY;
	p->arg = 0;
	atomic_store(&p->count, count);
	atomic_store(&p->state, FAULT_ARMED);
	return (p);
}

static void
disarm(void)
{
	int i;

	for (i = 0; i < FAULT_PLANS; i++)
		atomic_store(&page->plan[i].state, FAULT_IDLE);
}

/* How a child ends that passes a point n times. */
static int
pass(enum fault_point point, int n)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ne(pid, -1);
	if (pid == 0) {
		while (n-- > 0)
			fault_point(point);
		_exit(7);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return (status);
}

START_TEST(test_fires_once_at_its_count_over_lives)
{
	struct fault_plan *p = arm(0, FAULT_publish_after, FAULT_KIND_kill,
	    5);
	int status;

	status = pass(FAULT_publish_before, 9);
	ck_assert_int_eq(WEXITSTATUS(status), 7);
	status = pass(FAULT_publish_after, 4);
	ck_assert_int_eq(WEXITSTATUS(status), 7);
	ck_assert_uint_eq(atomic_load(&p->state), FAULT_ARMED);
	status = pass(FAULT_publish_after, 4);		/* the fifth */
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	ck_assert_uint_eq(atomic_load(&p->state), FAULT_ACTED);
	ck_assert_uint_ne(atomic_load(&p->pid), 0);
	status = pass(FAULT_publish_after, 9);
	ck_assert_int_eq(WEXITSTATUS(status), 7);
	ck_assert_uint_eq(atomic_load(&page->passed[FAULT_publish_after]),
	    14);
	disarm();
}
END_TEST

START_TEST(test_only_its_worker)
{
	struct fault_plan *p = arm(0, FAULT_apply_before, FAULT_KIND_exit1,
	    1);

	p->worker = 3;
	ck_assert_int_eq(WEXITSTATUS(pass(FAULT_apply_before, 5)), 7);
	fault_worker(3);
	ck_assert_int_eq(WEXITSTATUS(pass(FAULT_apply_before, 5)), 1);
	disarm();
}
END_TEST

START_TEST(test_one_after_the_other)
{
	struct fault_plan *p = arm(1, FAULT_apply_after, FAULT_KIND_exit0,
	    2);

	p->after = 0;
	(void)arm(0, FAULT_apply_before, FAULT_KIND_exit1, 1);
	ck_assert_int_eq(WEXITSTATUS(pass(FAULT_apply_after, 5)), 7);
	ck_assert_int_eq(WEXITSTATUS(pass(FAULT_apply_before, 1)), 1);
	ck_assert_int_eq(WEXITSTATUS(pass(FAULT_apply_after, 1)), 7);
	ck_assert_int_eq(WEXITSTATUS(pass(FAULT_apply_after, 1)), 0);
	disarm();
}
END_TEST

START_TEST(test_kinds_that_end_a_process)
{
	struct fault_plan *p;
	int status;

	(void)arm(0, FAULT_release_before, FAULT_KIND_segv, 1);
	status = pass(FAULT_release_before, 1);
	/* AddressSanitizer may have made an exit of it. */
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	p = arm(0, FAULT_release_before, FAULT_KIND_oom, 1);
	p->arg = 32;
	status = pass(FAULT_release_before, 1);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	disarm();
}
END_TEST

START_TEST(test_clock_jumps)
{
	uint64_t before = clock_wall_ns(), after;
	struct fault_plan *p = arm(0, FAULT_publish_before,
	    FAULT_KIND_clock, 1);

	p->arg = -7200;
	fault_point(FAULT_publish_before);
	after = clock_wall_ns();
	ck_assert_uint_lt(after, before - 7000 * UINT64_C(1000000000));
	disarm();
}
END_TEST

START_TEST(test_calls_fail_between_their_points)
{
	int fd = memfd_create("x", 0);
	struct iovec v[2] = { { .iov_base = (void *)(uintptr_t)"abc",
	    .iov_len = 3 }, { .iov_base = (void *)(uintptr_t)"def",
	    .iov_len = 3 } };
	struct fault_plan *p;
	char got[8];

	p = arm(0, FAULT_file_write_before, FAULT_KIND_enospc, 1);
	ck_assert_int_eq(writev(fd, v, 2), 6);
	fault_point(FAULT_file_write_before);
	ck_assert_uint_eq(atomic_load(&p->state), FAULT_FIRED);
	ck_assert_int_eq(read(fd, got, 1), 0);	/* not this one */
	ck_assert_int_eq(writev(fd, v, 2), -1);
	ck_assert_int_eq(errno, ENOSPC);
	ck_assert_uint_eq(atomic_load(&p->state), FAULT_ACTED);
	ck_assert_int_eq(writev(fd, v, 2), 6);

	p = arm(0, FAULT_file_write_before, FAULT_KIND_shortly, 1);
	fault_point(FAULT_file_write_before);
	ck_assert_int_eq(writev(fd, v, 2), 1);
	ck_assert_int_eq(pread(fd, got, 7, 6), 7);
	ck_assert_mem_eq(got, "abcdefa", 7);

	p = arm(0, FAULT_file_read_before, FAULT_KIND_eio, 1);
	fault_point(FAULT_file_read_before);
	fault_point(FAULT_file_read_after);	/* not called: next time */
	ck_assert_uint_eq(atomic_load(&p->state), FAULT_ARMED);
	ck_assert_int_eq(pread(fd, got, 7, 6), 7);
	fault_point(FAULT_file_read_before);
	ck_assert_int_eq(pread(fd, got, 7, 6), -1);
	ck_assert_int_eq(errno, EIO);

	p = arm(0, FAULT_outbox_grow_before, FAULT_KIND_enospc, 1);
	fault_point(FAULT_outbox_grow_before);
	ck_assert_int_eq(posix_fallocate(fd, 0, 100), ENOSPC);
	ck_assert_int_eq(posix_fallocate(fd, 0, 100), 0);

	p = arm(0, FAULT_store_commit_before, FAULT_KIND_efsync, 1);
	fault_point(FAULT_store_commit_before);
	ck_assert_int_eq(fdatasync(fd), -1);
	ck_assert_int_eq(errno, EIO);
	ck_assert_int_eq(fsync(fd), 0);
	close(fd);
	disarm();
}
END_TEST

/* The next call within this row suffers this. */
static void
begin(enum fault_point point, enum fault_kind kind)
{
	(void)arm(0, point, kind, 1);
	fault_point(point);
}

START_TEST(test_calls_on_files)
{
	int fd = memfd_create("x", 0);

	begin(FAULT_journal_cut_before, FAULT_KIND_enospc);
	ck_assert_int_eq(pwrite(fd, "abc", 3, 0), -1);
	ck_assert_int_eq(errno, ENOSPC);
	ck_assert_int_eq(pwrite(fd, "abc", 3, 0), 3);
	begin(FAULT_stdin_take_before, FAULT_KIND_shortly);
	ck_assert_int_eq(write(fd, "abc", 3), 1);
	begin(FAULT_file_cut_before, FAULT_KIND_eio);
	ck_assert_int_eq(ftruncate(fd, 1), -1);
	ck_assert_int_eq(errno, EIO);
	ck_assert_int_eq(ftruncate(fd, 1), 0);
	close(fd);
	disarm();
}
END_TEST

START_TEST(test_calls_on_pipes_and_sockets)
{
	int fd = memfd_create("x", 0), pair[2], ends[2];
	char got[8];

	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_eq(write(ends[1], "abc", 3), 3);
	begin(FAULT_stdin_take_before, FAULT_KIND_eintr);
	ck_assert_int_eq(splice(ends[0], NULL, fd, NULL, 3, 0), -1);
	ck_assert_int_eq(errno, EINTR);
	begin(FAULT_stdin_take_before, FAULT_KIND_shortly);
	ck_assert_int_eq(splice(ends[0], NULL, fd, NULL, 3, 0), 1);
	ck_assert_int_eq(splice(ends[0], NULL, fd, NULL, 3, 0), 2);

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ck_assert_int_eq(send(pair[0], "abc", 3, 0), 3);
	begin(FAULT_external_read_before, FAULT_KIND_shortly);
	ck_assert_int_eq(recv(pair[1], got, sizeof(got), 0), 1);
	begin(FAULT_control_read_before, FAULT_KIND_eintr);
	ck_assert_int_eq(recv(pair[1], got, sizeof(got), 0), -1);
	ck_assert_int_eq(errno, EINTR);
	ck_assert_int_eq(recv(pair[1], got, sizeof(got), 0), 2);
	close(fd);
	close(ends[0]);
	close(ends[1]);
	close(pair[0]);
	close(pair[1]);
	disarm();
}
END_TEST

START_TEST(test_another_boot)
{
	uint8_t before[16], after[16];
	struct err err;

	ck_assert_int_eq(clock_boot_id(before, &err), 0);
	atomic_fetch_add(&page->boots, 1);
	ck_assert_int_eq(clock_boot_id(after, &err), 0);
	ck_assert_mem_ne(before, after, sizeof(before));
	atomic_fetch_sub(&page->boots, 1);
	ck_assert_int_eq(clock_boot_id(after, &err), 0);
	ck_assert_mem_eq(before, after, sizeof(before));
}
END_TEST

/* [1], data [42, 1], data [42, 2], [2] */
static const uint8_t messages[] = {
	0, 0, 0, 2, 0x91, 1,	0, 0, 0, 3, 0x92, 42, 1,
	0, 0, 0, 3, 0x92, 42, 2,	0, 0, 0, 2, 0x91, 2
};

START_TEST(test_data_messages_twice)
{
	uint8_t got[64];
	struct fault_plan *p;
	int fd[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	p = arm(0, FAULT_peer_send_before, FAULT_KIND_twice, 1);
	/* Without one it waits. */
	fault_point(FAULT_peer_send_before);
	ck_assert_int_eq(send(fd[0], messages, 6, 0), 6);
	ck_assert_int_eq(read(fd[1], got, sizeof(got)), 6);
	ck_assert_uint_eq(atomic_load(&p->state), FAULT_ARMED);
	fault_point(FAULT_peer_send_before);
	ck_assert_int_eq(send(fd[0], messages, sizeof(messages), 0),
	    sizeof(messages));
	ck_assert_int_eq(read(fd[1], got, sizeof(got)),
	    sizeof(messages) + 14);
	ck_assert_mem_eq(got, messages, sizeof(messages));
	ck_assert_mem_eq(got + sizeof(messages), messages + 6, 14);
	ck_assert_uint_eq(atomic_load(&p->state), FAULT_ACTED);
	close(fd[0]);
	close(fd[1]);
	disarm();
}
END_TEST

START_TEST(test_half_a_message)
{
	uint8_t got[64];
	int fd[2], status;
	pid_t pid;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	(void)arm(0, FAULT_peer_send_before, FAULT_KIND_tear, 1);
	if ((pid = fork()) == 0) {
		fault_point(FAULT_peer_send_before);
		(void)send(fd[0], messages, sizeof(messages), 0);
		_exit(7);
	}
	close(fd[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	ck_assert_int_eq(read(fd[1], got, sizeof(got)),
	    sizeof(messages) / 2);
	close(fd[1]);
	disarm();
}
END_TEST

UNIT_MAIN("fault", test_fires_once_at_its_count_over_lives,
    test_only_its_worker, test_one_after_the_other,
    test_kinds_that_end_a_process, test_clock_jumps,
    test_calls_fail_between_their_points, test_calls_on_files,
    test_calls_on_pipes_and_sockets, test_another_boot,
    test_data_messages_twice, test_half_a_message)
