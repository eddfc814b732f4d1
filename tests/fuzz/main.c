/*
 * Two programs are made of the targets.  With FUZZ_LIBFUZZER libFuzzer has
 * main(), and FUZZ_TARGET in the environment names the target.  Without it:
 *
 *	replay DIRECTORY...	runs the target that each directory is called
 *				after over each file in it
 *	replay --list		names the targets
 */
#include <sys/mman.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/mem.h"
#include "tests/fuzz/fuzz.h"

#define INPUT_MAX	(1 << 20)

static const struct target {
	const char	*name;
	void		(*run)(const uint8_t *, size_t);
} targets[] = {
#define FUZZ_ROW(name)	{ #name, fuzz_##name },
	FUZZ_TABLE(FUZZ_ROW)
#undef FUZZ_ROW
};
#define NTARGETS	(sizeof(targets) / sizeof(targets[0]))

void
fuzz_failed(const char *what, const char *file, int line)
{
	fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
	abort();
}

uint64_t
fuzz_number(struct fuzz_in *in, unsigned int bytes)
{
	uint64_t v = 0;

	while (bytes-- > 0) {
		v <<= 8;
		if (in->n > 0) {
			v |= *in->p++;
			in->n--;
		}
	}
	return (v);
}

struct slice
fuzz_rest(struct fuzz_in *in)
{
	struct slice s = slice_of(in->p, in->n);

	in->n = 0;
	return (s);
}

struct slice
fuzz_piece(struct fuzz_in *in, size_t most)
{
	size_t n = fuzz_number(in, 1) % most;
	struct slice s;

	if (n > in->n)
		n = in->n;
	s = slice_of(in->p, n);
	in->p += n;
	in->n -= n;
	return (s);
}

const char *
fuzz_file(const void *data, size_t n)
{
	static char path[64];
	static int fd = -1;

	if (fd == -1) {
		fd = memfd_create("fuzz", MFD_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	if (pwrite(fd, data, n, 0) != (ssize_t)n ||
	    ftruncate(fd, (off_t)n) == -1) {
		perror("memfd_create");
		exit(1);
	}
	return (path);
}

void
fuzz_patch(uint8_t *data, size_t size, struct fuzz_in *in)
{
	size_t off, n;

	while (in->n >= 4) {
		off = fuzz_number(in, 3);
		n = fuzz_number(in, 1);
		if (n > in->n)
			n = in->n;
		if (off + n <= size)
			memcpy(data + off, in->p, n);
		in->p += n;
		in->n -= n;
	}
}

static const struct target *
find(const char *name)
{
	size_t i;

	for (i = 0; i < NTARGETS; i++)
		if (name != NULL && strcmp(targets[i].name, name) == 0)
			return (&targets[i]);
	fprintf(stderr, "there is no target \"%s\"\n",
	    name == NULL ? "" : name);
	exit(2);
}

#ifdef FUZZ_LIBFUZZER

int	LLVMFuzzerTestOneInput(const uint8_t *, size_t);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const struct target *t;

	if (t == NULL) {
		t = find(getenv("FUZZ_TARGET"));
		log_init("fuzz", LOG_CRIT);
	}
	t->run(data, n);
	return (0);
}

#else

/* In memory of exactly its size, so that reading beyond is seen. */
static void
run_file(const struct target *t, const char *path)
{
	uint8_t *data = xmalloc(INPUT_MAX), *exact;
	FILE *f = fopen(path, "r");
	size_t n;

	if (f == NULL) {
		perror(path);
		exit(1);
	}
	n = fread(data, 1, INPUT_MAX, f);
	fclose(f);
	exact = xmalloc(n == 0 ? 1 : n);
	memcpy(exact, data, n);
	free(data);
	/* Known when it does not come back. */
	printf("%s\n", path);
	fflush(stdout);
	t->run(exact, n);
	free(exact);
}

static int
run_directory(const char *path)
{
	const char *base = strrchr(path, '/');
	const struct target *t = find(base == NULL ? path : base + 1);
	struct dirent **entry;
	int i, n, files = 0;

	if ((n = scandir(path, &entry, NULL, alphasort)) == -1) {
		perror(path);
		exit(1);
	}
	for (i = 0; i < n; i++) {
		char *file = xasprintf("%s/%s", path, entry[i]->d_name);

		if (entry[i]->d_name[0] != '.') {
			run_file(t, file);
			files++;
		}
		free(file);
		free(entry[i]);
	}
	free(entry);
	return (files);
}

int
main(int argc, char **argv)
{
	size_t k;
	int i;

	log_init("fuzz", LOG_CRIT);
	if (argc == 2 && strcmp(argv[1], "--list") == 0) {
		for (k = 0; k < NTARGETS; k++)
			printf("%s\n", targets[k].name);
		return (0);
	}
	for (i = 1; i < argc; i++)
		if (run_directory(argv[i]) == 0) {
			fprintf(stderr, "%s: no inputs\n", argv[i]);
			return (1);
		}
	return (argc < 2);
}

#endif
