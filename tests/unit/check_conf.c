/*
 * common/conf.c.  tests/data/conf has good-*.conf, and bad-*.conf whose first
 * line says which line must be blamed and what must be said:
 * "# expect LINE: TEXT".
 */
#include <sys/stat.h>

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/mem.h"
#include "tests/unit/unit.h"

#define DATA	TEST_DATA "/conf/"

static char *dir, *file;

static void
scratch(void)
{
	const char *tmp = getenv("TMPDIR");
	char *template = xasprintf("%s/check_conf.XXXXXX",
	    tmp == NULL ? "/tmp" : tmp);

	ck_assert_ptr_nonnull(mkdtemp(template));
	dir = realpath(template, NULL);
	ck_assert_ptr_nonnull(dir);
	free(template);
	file = xasprintf("%s/cluster.conf", dir);
}

static void
scratch_end(void)
{
	(void)unlink(file);
	ck_assert_int_eq(rmdir(dir), 0);
	free(file);
	free(dir);
}

static void
write_file(const void *p, size_t n)
{
	FILE *f = fopen(file, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(p, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
}

static struct buf
read_whole(const char *path)
{
	struct buf b;
	FILE *f = fopen(path, "r");

	ck_assert_msg(f != NULL, "%s", path);
	buf_init(&b);
	b.len = fread(buf_reserve(&b, 100000), 1, 100000, f);
	fclose(f);
	return (b);
}

START_TEST(test_minimal)
{
	struct conf_app a;
	struct err err = { ERR_NONE, "" };
	char real[PATH_MAX];

	ck_assert_msg(conf_read(&a, DATA "good-minimal.conf", &err) == 0,
	    "%s", err.text);
	ck_assert_ptr_nonnull(realpath(DATA, real));
	ck_assert_str_eq(a.name, "wc");
	ck_assert_str_eq(a.module, "word_count");
	ck_assert_int_eq(a.workers, 3);
	ck_assert_uint_eq(a.args.n, 4);
	ck_assert_str_eq(a.args.item[1], "words@127.0.0.1:7010");
	ck_assert_str_eq(a.state_directory, "/var/lib/wallaroo/wc");
	ck_assert_int_eq(a.durability, CONF_PROCESS);
	/* defaults */
	ck_assert_str_eq(a.runtime_directory, "");
	ck_assert_str_eq(a.control_socket, "/var/lib/wallaroo/wc/control.sock");
	ck_assert_str_eq(a.dead_letter_file,
	    "/var/lib/wallaroo/wc/dead-letters.jsonl");
	ck_assert_uint_eq(a.python_path.n, 1);
	ck_assert_str_eq(a.python_path.item[0], real);
	ck_assert_int_eq(a.partitions, 256);
	ck_assert_int_eq(a.journal_size, 64 << 20);
	ck_assert_int_eq(a.checkpoint_interval, 1000);
	ck_assert_int_eq(a.on_error, CONF_FAIL);
	ck_assert_int_eq(a.log_level, CONF_INFO);
	conf_fini(&a);
	conf_fini(&a);		/* harmless */
}
END_TEST

static void
check_full(const struct conf_app *a, const char *base)
{
	static const char *const args[] = { "a b", "single ${HOME}",
		"quote\"d", "back\\slash", "dollar$", "", "ünïcode",
		"tab\tnewline\n" };
	char path[PATH_MAX + 32];

#define AT_BASE(name)	((void)snprintf(path, sizeof(path), "%s/" name,	\
	base), path)
	ck_assert_str_eq(a->name, "full_1.x-y");
	ck_assert_str_eq(a->file, AT_BASE("good-full.conf"));
	ck_assert_str_eq(a->module, "pkg.app");
	ck_assert_uint_eq(a->args.n, sizeof(args) / sizeof(args[0]));
	for (size_t i = 0; i < a->args.n; i++)
		ck_assert_str_eq(a->args.item[i], args[i]);
	ck_assert_int_eq(a->workers, 7);
	ck_assert_str_eq(a->state_directory, AT_BASE("state"));
	ck_assert_int_eq(a->durability, CONF_NONE);
	ck_assert_str_eq(a->runtime_directory, AT_BASE("run"));
	ck_assert_str_eq(a->control_socket, "/tmp/ctl.sock");
	ck_assert_str_eq(a->python, AT_BASE("venv"));
	ck_assert_uint_eq(a->python_path.n, 3);
	ck_assert_str_eq(a->python_path.item[0], AT_BASE("lib"));
	ck_assert_str_eq(a->python_path.item[1], "/usr/lib/app");
	ck_assert_str_eq(a->python_path.item[2], base);
	ck_assert_str_eq(a->user, "nobody");
	ck_assert_int_eq(a->partitions, 1024);
	ck_assert_int_eq(a->journal_size, 1 << 30);
	ck_assert_int_eq(a->outbox_mark, 1 << 20);
	ck_assert_int_eq(a->outbox_size, 3 << 20);
	ck_assert_int_eq(a->max_message, 1536000);
	ck_assert_int_eq(a->checkpoint_interval, 250);
	ck_assert_int_eq(a->hang_timeout, 1500);
	ck_assert_int_eq(a->stop_timeout, 0);
	ck_assert_int_eq(a->at_end, CONF_LEAVE);
	ck_assert_int_eq(a->restart_limit, 1000);
	ck_assert_int_eq(a->on_error, CONF_DEAD_LETTER);
	ck_assert_str_eq(a->dead_letter_file, AT_BASE("dead.jsonl"));
	ck_assert_int_eq(a->connections, 65536);
	ck_assert_int_eq(a->log_level, CONF_DEBUG);
#undef AT_BASE
}

/* What -n prints of a is a file that says the same, which is read into b. */
static void
check_printed(const struct conf_app *a, struct conf_app *b)
{
	struct err err = { ERR_NONE, "" };
	char *text, *again;
	size_t ntext, nagain;
	FILE *f;

	f = open_memstream(&text, &ntext);
	conf_print(a, f);
	fclose(f);
	write_file(text, ntext);
	ck_assert_msg(conf_read(b, file, &err) == 0, "%s", err.text);
	f = open_memstream(&again, &nagain);
	conf_print(b, f);
	fclose(f);
	ck_assert_str_eq(text, again);
	free(text);
	free(again);
}

START_TEST(test_full)
{
	struct conf_app a, b;
	struct err err = { ERR_NONE, "" };
	char real[PATH_MAX];
	struct buf packed;

	ck_assert_msg(conf_read(&a, DATA "good-full.conf", &err) == 0, "%s",
	    err.text);
	ck_assert_ptr_nonnull(realpath(DATA, real));
	check_full(&a, real);

	/* for the worker and back */
	buf_init(&packed);
	conf_pack(&a, &packed);
	ck_assert_int_eq(conf_unpack(&b, buf_slice(&packed), &err), 0);
	check_full(&b, real);
	conf_fini(&b);
	for (size_t n = 0; n < packed.len; n++) {
		struct slice s = unit_exact(packed.data, n);

		ck_assert_int_eq(conf_unpack(&b, s, &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		unit_free(s);
	}
	buf_add(&packed, "\x01", 1);
	ck_assert_int_eq(conf_unpack(&b, buf_slice(&packed), &err), -1);
	buf_fini(&packed);

	scratch();
	check_printed(&a, &b);
	free(b.file);
	b.file = xstrdup(a.file);
	check_full(&b, real);
	conf_fini(&a);
	conf_fini(&b);
	scratch_end();
}
END_TEST

START_TEST(test_connectors)
{
	struct conf_app a, b;
	struct err err = { ERR_NONE, "" };
	const struct conf_connector *c;
	char real[PATH_MAX], path[PATH_MAX + 32];

	ck_assert_msg(conf_read(&a, DATA "good-connectors.conf", &err) == 0,
	    "%s", err.text);
	ck_assert_ptr_nonnull(realpath(DATA, real));
	ck_assert_uint_eq(a.nconnectors, 3);
	ck_assert_uint_eq(a.args.n, 2);
	c = &a.connectors[0];
	ck_assert_str_eq(c->name, "in");
	ck_assert_uint_eq(c->command.n, 2);
	ck_assert_str_eq(c->command.item[1], "shop.orders");
	ck_assert_str_eq(c->source, "orders");
	ck_assert_str_eq(c->sink, "");
	(void)snprintf(path, sizeof(path), "%s/venv", real);
	ck_assert_str_eq(c->python, path);
	ck_assert_str_eq(c->user, "daemon");
	ck_assert_int_eq(c->memory_limit, 256 << 20);
	ck_assert_int_eq(c->stop_timeout, 1500);
	c = &a.connectors[1];
	ck_assert_str_eq(c->name, "out.1");
	(void)snprintf(path, sizeof(path), "%s/bin/take", real);
	ck_assert_str_eq(c->command.item[0], path);
	ck_assert_str_eq(c->sink, "totals");
	ck_assert_int_eq(c->memory_limit, 0);
	ck_assert_int_eq(c->stop_timeout, 5000);
	ck_assert_str_eq(a.connectors[2].command.item[0], "python3");

	scratch();
	check_printed(&a, &b);
	conf_fini(&a);
	conf_fini(&b);
	scratch_end();
}
END_TEST

START_TEST(test_too_many_connectors)
{
	struct conf_app a;
	struct err err = { ERR_NONE, "" };
	struct buf b = { 0 };

	scratch();
	buf_addf(&b, "application a { module = m state-directory = \"/s\"\n");
	for (int i = 0; i < 65; i++) {
		buf_addf(&b, "connector c%d { command = {c} sink = s }\n", i);
		if (i == 63) {
			write_file(b.data, b.len);
			ck_assert_int_eq(conf_read(&a, file, &err), -1);
			ck_assert_ptr_nonnull(strstr(err.text, "the file "
			    "ends"));
		}
	}
	buf_addf(&b, "}\n");
	write_file(b.data, b.len);
	ck_assert_int_eq(conf_read(&a, file, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, ":66: more than 64 "
	    "connectors are not allowed"));
	buf_fini(&b);
	scratch_end();
}
END_TEST

/* Every bad file, and that there are any. */
START_TEST(test_bad)
{
	char path[PATH_MAX], *want, *head, *text;
	struct dirent *e;
	struct conf_app a;
	struct err err;
	struct buf b;
	int n = 0, line;
	DIR *d = opendir(DATA);

	ck_assert_ptr_nonnull(d);
	while ((e = readdir(d)) != NULL) {
		if (strncmp(e->d_name, "bad-", 4) != 0)
			continue;
		(void)snprintf(path, sizeof(path), DATA "%s", e->d_name);
		b = read_whole(path);
		head = buf_str(&b);
		head[strcspn(head, "\n")] = '\0';
		ck_assert_msg(sscanf(head, "# expect %d: ", &line) == 1,
		    "%s", path);
		text = strchr(head, ':') + 2;
		want = xasprintf("%s:%d: %s", path, line, text);
		err.code = ERR_NONE;
		ck_assert_msg(conf_read(&a, path, &err) == -1, "%s", path);
		ck_assert_int_eq(err.code, ERR_CONFIG);
		ck_assert_msg(strncmp(err.text, want, strlen(want)) == 0,
		    "want %s\ngot  %s", want, err.text);
		free(want);
		buf_fini(&b);
		n++;
	}
	closedir(d);
	ck_assert_int_ge(n, 40);
}
END_TEST

/* A file cut anywhere before its last brace is refused, and says so. */
START_TEST(test_truncated)
{
	static const char *const files[] = { DATA "good-minimal.conf",
		DATA "good-full.conf", DATA "good-connectors.conf" };
	struct conf_app a;
	struct err err;
	struct buf b;
	size_t last;

	scratch();
	for (size_t i = 0; i < 3; i++) {
		b = read_whole(files[i]);
		for (last = b.len - 1; b.data[last] != '}'; )
			last--;
		for (size_t n = 0; n <= last; n++) {
			write_file(b.data, n);
			err.code = ERR_NONE;
			ck_assert_msg(conf_read(&a, file, &err) == -1,
			    "%s cut to %zu", files[i], n);
			ck_assert_int_eq(err.code, ERR_CONFIG);
		}
		write_file(b.data, last + 1);
		ck_assert_msg(conf_read(&a, file, &err) == 0, "%s", err.text);
		conf_fini(&a);
		buf_fini(&b);
	}
	scratch_end();
}
END_TEST

START_TEST(test_no_file)
{
	struct conf_app a;
	struct err err;

	ck_assert_int_eq(conf_read(&a, "/nonexistent/x.conf", &err), -1);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	ck_assert_str_eq(err.text,
	    "/nonexistent/x.conf: No such file or directory");
	ck_assert_int_eq(conf_read(&a, "/tmp", &err), -1);
	ck_assert_str_eq(err.text, "/tmp: is a directory");
}
END_TEST

/* Every byte that a string can have survives -n and reading again. */
START_TEST(test_print_bytes)
{
	static const char head[] = "application \"a\" { module = \"m\" "
	    "state-directory = \"/s\" }\n";
	struct conf_app a, b;
	struct err err;
	char *text, all[256];
	size_t n;
	FILE *f;

	for (int c = 1; c < 256; c++)
		all[c - 1] = (char)c;
	all[255] = '\0';
	scratch();
	write_file(head, strlen(head));
	ck_assert_int_eq(conf_read(&a, file, &err), 0);
	free(a.module);
	a.module = xstrdup(all);
	f = open_memstream(&text, &n);
	conf_print(&a, f);
	fclose(f);
	write_file(text, n);
	ck_assert_msg(conf_read(&b, file, &err) == 0, "%s", err.text);
	ck_assert_str_eq(b.module, all);
	free(text);
	conf_fini(&a);
	conf_fini(&b);
	scratch_end();
}
END_TEST

/* In a directory of its own: relative file name, no directory in it. */
START_TEST(test_relative_file)
{
	static const char text[] = "application \"a\" { module = \"m\" "
	    "state-directory = s }\n";
	char back[PATH_MAX], *want;
	struct conf_app a;
	struct err err;

	scratch();
	write_file(text, strlen(text));
	ck_assert_ptr_nonnull(getcwd(back, sizeof(back)));
	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_int_eq(conf_read(&a, "cluster.conf", &err), 0);
	ck_assert_int_eq(chdir(back), 0);
	want = xasprintf("%s/s", dir);
	ck_assert_str_eq(a.state_directory, want);
	free(want);
	ck_assert_str_eq(a.file, file);
	conf_fini(&a);
	scratch_end();
}
END_TEST

/* A socket's path that sockaddr_un cannot hold is left to the supervisor. */
START_TEST(test_long_socket)
{
	char text[400], deep[201];
	struct conf_app a;
	struct err err;

	memset(deep, 'd', 200);
	deep[200] = '\0';
	(void)snprintf(text, sizeof(text), "application \"a\" { module = m "
	    "state-directory = /%s }\n", deep);
	scratch();
	write_file(text, strlen(text));
	ck_assert_msg(conf_read(&a, file, &err) == 0, "%s", err.text);
	ck_assert_str_eq(a.control_socket, "");
	conf_fini(&a);
	scratch_end();
}
END_TEST

START_TEST(test_manual)
{
	char *text;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	conf_manual(f, false);
	fclose(f);
	ck_assert_ptr_nonnull(strstr(text, ".It Ic workers No = Ar number\n"
	    "Number of worker processes.\nDefault: 1; from 1 to 256.\n"));
	ck_assert_ptr_nonnull(strstr(text, "Default: process.\n"));
	ck_assert_ptr_nonnull(strstr(text, "Default: 64M; from 1M to 16G."));
	ck_assert_ptr_nonnull(strstr(text, "Default: 1; from 0.01 to 3600."));
	free(text);
	f = open_memstream(&text, &n);
	conf_manual(f, true);
	fclose(f);
	ck_assert_ptr_nonnull(strstr(text, ".It Ic memory-limit No = Ar "
	    "bytes\nBytes of its memory"));
	ck_assert_ptr_null(strstr(text, "workers"));
	free(text);
}
END_TEST

UNIT_MAIN("conf", test_minimal, test_full, test_connectors,
    test_too_many_connectors, test_bad, test_truncated,
    test_no_file, test_print_bytes, test_relative_file, test_long_socket,
    test_manual)
