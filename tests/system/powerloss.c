/*
 * For tests, by LD_PRELOAD: remembers what a power loss would leave.
 *
 * A file below one of the directories POWER_ROOTS (separated by colons) that is
 * synced is copied, page by changed page, to POWER_SHADOW, and the names of a
 * directory that is synced are listed there; nothing reaches the real disk.
 * powerloss.py makes of that what a machine may find after its power was lost.
 * The boot's id is read from POWER_BOOT.  A journal takes its time, another one
 * each time, so that workers are never equally far; that of worker POWER_LAGS
 * takes POWER_LAG_MS, so that one of them is far behind.
 *
 *	f.INODE		content as of the file's last sync
 *	d.INODE		names as of the directory's last sync
 *	u.PATH		content of a file that was removed since; / is %
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/stat.h>

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE	4096
#define SLOW_US	20000	/* at most */

#define REAL(name)							\
	static __typeof__(name) *real;					\
	if (real == NULL)						\
		real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int
below_roots(const char *path)
{
	const char *p = getenv("POWER_ROOTS");
	size_t n;

	for (; p != NULL && *p != '\0'; p += n + (p[n] == ':')) {
		n = strcspn(p, ":");
		if (n > 0 && strncmp(path, p, n) == 0 &&
		    (path[n] == '/' || path[n] == '\0'))
			return (1);
	}
	return (0);
}

static int
path_of(int fd, char *path, size_t size)
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if ((n = readlink(link, path, size - 1)) <= 0)
		return (0);
	path[n] = '\0';
	return (below_roots(path));
}

static void
shadow_name(char *to, size_t size, char kind, unsigned long ino)
{
	snprintf(to, size, "%s/%c.%lu", getenv("POWER_SHADOW"), kind, ino);
}

static int (*real_open)(const char *, int, ...);

static int
plain_open(const char *path, int flags, mode_t mode)
{
	if (real_open == NULL)
		*(void **)&real_open = dlsym(RTLD_NEXT, "open");
	return (real_open(path, flags, mode));
}

/* Pages that differ go to the shadow. */
static int
copy_file(int fd, const struct stat *st)
{
	static __thread unsigned char now[PAGE], then[PAGE];
	char name[512];
	off_t at;
	ssize_t n, m;
	int to;

	shadow_name(name, sizeof(name), 'f', st->st_ino);
	if ((to = plain_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0666)) == -1)
		return (-1);
	for (at = 0; at < st->st_size; at += PAGE) {
		n = pread(fd, now, PAGE, at);
		m = pread(to, then, PAGE, at);
		if (n > 0 && (n != m || memcmp(now, then, (size_t)n) != 0) &&
		    pwrite(to, now, (size_t)n, at) != n)
			break;
	}
	if (ftruncate(to, st->st_size) == -1)
		at = -1;
	close(to);
	return (at < st->st_size ? -1 : 0);
}

static int
list_directory(const char *path, const struct stat *st)
{
	char name[512], temporary[600];
	struct dirent *e;
	FILE *f;
	DIR *d;

	shadow_name(name, sizeof(name), 'd', st->st_ino);
	snprintf(temporary, sizeof(temporary), "%s.%d", name, (int)getpid());
	if ((d = opendir(path)) == NULL)
		return (-1);
	if ((f = fopen(temporary, "w")) == NULL) {
		closedir(d);
		return (-1);
	}
	while ((e = readdir(d)) != NULL)
		if (e->d_name[0] != '.')
			fprintf(f, "%lu %s\n", (unsigned long)e->d_ino,
			    e->d_name);
	closedir(d);
	fclose(f);
	return (rename(temporary, name));
}

/* Disks are not equally fast. */
static void
take_time(const char *path)
{
	const char *journal, *lags, *ms = getenv("POWER_LAG_MS");
	struct timespec now;

	if ((journal = strstr(path, "/worker-")) == NULL ||
	    strstr(journal, ".journal") == NULL)
		return;
	lags = getenv("POWER_LAGS");
	if (lags != NULL && ms != NULL && atoi(journal + 8) == atoi(lags)) {
		usleep((useconds_t)atoi(ms) * 1000);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	usleep((useconds_t)(now.tv_nsec / 1000 % SLOW_US));
}

/* 1: not one of ours. */
static int
remember(int fd)
{
	char path[4096];
	struct stat st;
	int flags;

	if (!path_of(fd, path, sizeof(path)) || fstat(fd, &st) == -1)
		return (1);
	if (S_ISDIR(st.st_mode))
		return (list_directory(path, &st));
	take_time(path);
	flags = fcntl(fd, F_GETFL);
	if ((flags & O_ACCMODE) == O_WRONLY) {
		if ((fd = plain_open(path, O_RDONLY | O_CLOEXEC, 0)) == -1)
			return (-1);
		flags = copy_file(fd, &st);
		close(fd);
		return (flags);
	}
	return (copy_file(fd, &st));
}

int
fdatasync(int fd)
{
	int r = remember(fd);
	REAL(fdatasync);

	return (r == 1 ? real(fd) : r);
}

int
fsync(int fd)
{
	int r = remember(fd);
	REAL(fsync);

	return (r == 1 ? real(fd) : r);
}

int
unlink(const char *path)
{
	char from[512], to[5000], *p;
	struct stat st;
	int known = path[0] == '/' && below_roots(path) &&
	    stat(path, &st) == 0;
	REAL(unlink);

	if (known) {
		shadow_name(from, sizeof(from), 'f', st.st_ino);
		snprintf(to, sizeof(to), "%s/u.%s", getenv("POWER_SHADOW"),
		    path);
		for (p = to + strlen(getenv("POWER_SHADOW")) + 1; *p != '\0';
		    p++)
			if (*p == '/')
				*p = '%';
		(void)rename(from, to);
	}
	return (real(path));
}

static const char *
redirected(const char *path)
{
	const char *boot = getenv("POWER_BOOT");

	if (boot != NULL && strcmp(path,
	    "/proc/sys/kernel/random/boot_id") == 0)
		return (boot);
	return (path);
}

#define OPEN(name)							\
int									\
name(const char *path, int flags, ...)					\
{									\
	static int (*real)(const char *, int, ...);			\
	mode_t mode = 0;						\
	va_list ap;							\
									\
	if (flags & (O_CREAT | O_TMPFILE)) {				\
		va_start(ap, flags);					\
		mode = va_arg(ap, mode_t);				\
		va_end(ap);						\
	}								\
	if (real == NULL)						\
		*(void **)&real = dlsym(RTLD_NEXT, #name);		\
	return (real(redirected(path), flags, mode));			\
}

OPEN(open)
OPEN(open64)
