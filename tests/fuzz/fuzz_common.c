/* Targets of common/: messages, configuration, the pipeline as data. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf.h"
#include "common/letter.h"
#include "common/mem.h"
#include "common/mp.h"
#include "common/msg.h"
#include "common/topo.h"
#include "tests/fuzz/fuzz.h"

/* --- mp ----------------------------------------------------------------- */

static void
within(struct slice part, const uint8_t *data, size_t n)
{
	fuzz_check(part.len == 0 || (part.data >= data &&
	    part.data + part.len <= data + n));
}

/* The first byte says how many of the next are calls to make. */
void
fuzz_mp(const uint8_t *data, size_t n)
{
	struct fuzz_in calls = { data, n };
	size_t ncalls = fuzz_number(&calls, 1);
	const uint8_t *body;
	struct mp c;
	char *s;

	if (ncalls > calls.n)
		ncalls = calls.n;
	body = calls.p + ncalls;
	n = calls.n - ncalls;
	mp_init(&c, slice_of(body, n));
	while (ncalls-- > 0) {
		switch (fuzz_number(&calls, 1) % 12) {
		case 0:
			(void)mp_peek(&c);
			break;
		case 1:
			fuzz_check(mp_get_uint(&c, 1000) <= 1000);
			break;
		case 2:
			(void)mp_get_uint(&c, UINT64_MAX);
			break;
		case 3:
			(void)mp_get_int(&c);
			break;
		case 4:
			(void)mp_get_bool(&c);
			break;
		case 5:
			(void)mp_get_double(&c);
			break;
		case 6:
			within(mp_get_str(&c), body, n);
			break;
		case 7:
			within(mp_get_bin(&c), body, n);
			break;
		case 8:
			fuzz_check(mp_get_array(&c) <= n);
			break;
		case 9:
			fuzz_check(mp_get_map(&c) <= n);
			break;
		case 10:
			mp_skip(&c);
			break;
		default:
			s = mp_get_strdup(&c);
			fuzz_check((s == NULL) == c.bad);
			free(s);
		}
		fuzz_check(c.p >= body && c.p <= c.end);
	}
	(void)mp_end(&c);
}

/* --- msg ---------------------------------------------------------------- */

/* Each message that is accepted is written, and must read the same again. */
static struct buf again;

#define SUM_u32(f)	buf_addf(&again, "%u ", f);
#define SUM_u64(f)	buf_addf(&again, "%llu ", (unsigned long long)(f));
#define SUM_str(f)	buf_add(&again, (f).data, (f).len);
#define SUM_bin(f)	buf_add(&again, (f).data, (f).len);
#define SUM(type, field)	SUM_##type(m->field)
#define ON(name, code, from)						\
static int								\
on_##name(void *arg, const struct msg_##name *m, struct err *err)	\
{									\
	(void)err;							\
	MSG_FIELDS_##name(SUM)						\
	msg_put_##name(arg, m);						\
	return (0);							\
}
MSG_TABLE(ON)
#undef ON

static const struct msg_handlers handlers = {
#define ROW(name, code, from)	.name = on_##name,
	MSG_TABLE(ROW)
#undef ROW
};

static void
one_frame(enum msg_from from, struct slice frame)
{
	struct buf out = { 0 }, out2 = { 0 }, first;
	struct err err;

	buf_clear(&again);
	if (msg_dispatch(&handlers, &out, from, frame, &err) == 0) {
		first = again;
		memset(&again, 0, sizeof(again));
		fuzz_check(msg_frame(buf_slice(&out), out.len) ==
		    (long)out.len);
		fuzz_check(msg_dispatch(&handlers, &out2, from,
		    slice_of(out.data + MSG_HEADER, out.len - MSG_HEADER),
		    &err) == 0);
		fuzz_check(first.len == again.len && (again.len == 0 ||
		    memcmp(first.data, again.data, again.len) == 0));
		buf_fini(&first);
	} else
		fuzz_check(err.code == ERR_CORRUPT);
	buf_fini(&out);
	buf_fini(&out2);
	buf_fini(&again);
}

/* A stream of frames, as a socket brings it; the first byte is the sender. */
void
fuzz_msg(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	enum msg_from from = 1 << fuzz_number(&in, 1) % 4;
	struct slice s = slice_of(in.p, in.n);
	long len;

	while ((len = msg_frame(s, 4096)) > 0) {
		fuzz_check((size_t)len <= s.len && len >= MSG_HEADER);
		one_frame(from, slice_of(s.data + MSG_HEADER, (size_t)len -
		    MSG_HEADER));
		s.data += len;
		s.len -= (size_t)len;
	}
}

/* --- conf --------------------------------------------------------------- */

/* What is accepted is printed as a file that is accepted and means the
 * same. */
void
fuzz_conf(const uint8_t *data, size_t n)
{
	struct conf_app conf, two;
	struct buf one = { 0 }, other = { 0 };
	struct err err;
	char *text = NULL;
	size_t len = 0;
	FILE *f;

	if (conf_read(&conf, fuzz_file(data, n), &err) == -1) {
		fuzz_check(err.code != ERR_NONE && err.text[0] != '\0');
		return;
	}
	f = open_memstream(&text, &len);
	conf_print(&conf, f);
	fclose(f);
	if (conf_read(&two, fuzz_file(text, len), &err) == -1) {
		fprintf(stderr, "%s\n%s\n", err.text, text);
		fuzz_check(!"the printed configuration is refused");
	}
	free(two.file);
	two.file = xstrdup(conf.file);
	conf_pack(&conf, &one);
	conf_pack(&two, &other);
	fuzz_check(one.len == other.len &&
	    memcmp(one.data, other.data, one.len) == 0);
	buf_fini(&one);
	buf_fini(&other);
	conf_fini(&conf);
	conf_fini(&two);
	free(text);
}

void
fuzz_confpack(const uint8_t *data, size_t n)
{
	struct conf_app conf;
	struct buf b = { 0 };
	struct err err;

	if (conf_unpack(&conf, slice_of(data, n), &err) == -1)
		return;
	conf_pack(&conf, &b);
	conf_fini(&conf);
	fuzz_check(conf_unpack(&conf, buf_slice(&b), &err) == 0);
	conf_fini(&conf);
	buf_fini(&b);
}

/* --- topo --------------------------------------------------------------- */

void
fuzz_topo(const uint8_t *data, size_t n)
{
	struct topo topo;
	struct buf text = { 0 };
	struct err err;

	if (topo_parse(&topo, slice_of(data, n), &err) == -1) {
		fuzz_check(err.text[0] != '\0');
		return;
	}
	topo_print(&topo, &text);
	fuzz_check(text.len > 0);
	topo_fini(&topo);
	buf_fini(&text);
}

/* --- letter -------------------------------------------------------------- */

/* What is accepted is written, and must read the same again. */
static void
same_letter(const struct letter *l)
{
	struct buf b = { 0 };
	struct letter two;
	struct err err;

	letter_pack(&b, l);
	fuzz_check(letter_unpack(&two, buf_slice(&b), &err) == 0);
	fuzz_check(two.kind == l->kind && two.index == l->index &&
	    two.time_ns == l->time_ns && two.id == l->id &&
	    two.name.len == l->name.len && two.key.len == l->key.len &&
	    two.value.len == l->value.len && (l->value.len == 0 ||
	    memcmp(two.value.data, l->value.data, l->value.len) == 0));
	buf_fini(&b);
}

/* The record of a dead letter: as base64, or the bytes themselves. */
void
fuzz_letter(const uint8_t *data, size_t n)
{
	struct slice s = slice_of(data, n);
	struct buf bytes = { 0 }, text = { 0 }, back = { 0 };
	struct letter l;
	struct err err;

	letter_text(&text, s);
	fuzz_check(letter_bytes(&back, buf_slice(&text), &err) == 0);
	fuzz_check(back.len == n && (n == 0 || memcmp(back.data, data, n) ==
	    0));
	if (letter_bytes(&bytes, s, &err) == 0)
		s = buf_slice(&bytes);
	if (letter_unpack(&l, s, &err) == 0)
		same_letter(&l);
	else
		fuzz_check(err.text[0] != '\0');
	buf_fini(&bytes);
	buf_fini(&text);
	buf_fini(&back);
}
