/* See offsets.h. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"
#include "worker/offsets.h"

#define FRAME		4		/* length in front of a record */
#define WHOLE		5		/* kind and number before `whole` */

/* --- records ------------------------------------------------------------- */

struct head {
	int32_t		partition;
	int64_t		offset;
	int64_t		time_ms;
	uint32_t	topic;
	int32_t		key;
	int32_t		value;
	uint32_t	headers;
} __attribute__((packed));

size_t
kafka_record_size(const struct kafka_record *r)
{
	return (FRAME + WHOLE + sizeof(struct head) + r->topic.len +
	    r->key.len + r->value.len + r->headers.len);
}

static uint8_t *
put(uint8_t *to, struct slice s)
{
	if (s.len > 0)
		memcpy(to, s.data, s.len);
	return (to + s.len);
}

void
kafka_record_put(uint8_t *to, const struct kafka_record *r)
{
	uint32_t len = (uint32_t)(kafka_record_size(r) - FRAME);
	struct head h = { r->partition, r->offset, r->time_ms,
	    (uint32_t)r->topic.len, r->has_key ? (int32_t)r->key.len : -1,
	    r->has_value ? (int32_t)r->value.len : -1,
	    (uint32_t)r->headers.len };

	to[0] = (uint8_t)(len >> 24);
	to[1] = (uint8_t)(len >> 16);
	to[2] = (uint8_t)(len >> 8);
	to[3] = (uint8_t)len;
	to[4] = (uint8_t)r->kind;
	memcpy(to + 5, &r->number, sizeof(r->number));
	memcpy(to + FRAME + WHOLE, &h, sizeof(h));
	to = put(to + FRAME + WHOLE + sizeof(h), r->topic);
	to = put(to, r->key);
	to = put(to, r->value);
	(void)put(to, r->headers);
}

/* Take some bytes off. */
static bool
cut(struct slice *s, int64_t len, struct slice *part)
{
	size_t n = len < 0 ? 0 : (size_t)len;

	if (n > s->len)
		return (false);
	*part = slice_of(s->data, n);
	s->data += n;
	s->len -= n;
	return (true);
}

bool
kafka_record_get(struct kafka_record *r, struct slice s)
{
	struct head h;

	if (s.len < WHOLE + sizeof(h) || s.data[0] < KAFKA_RECORD ||
	    s.data[0] > KAFKA_END)
		return (false);
	r->kind = (enum kafka_kind)s.data[0];
	memcpy(&r->number, s.data + 1, sizeof(r->number));
	r->whole = slice_of(s.data + WHOLE, s.len - WHOLE);
	memcpy(&h, r->whole.data, sizeof(h));
	s = slice_of(r->whole.data + sizeof(h), r->whole.len - sizeof(h));
	r->partition = h.partition;
	r->offset = h.offset;
	r->time_ms = h.time_ms;
	r->has_key = h.key != -1;
	r->has_value = h.value != -1;
	return (h.partition >= 0 && h.offset >= 0 && h.offset < INT64_MAX &&
	    h.topic <= OFFSETS_TOPIC && cut(&s, h.topic, &r->topic) &&
	    h.key >= -1 && cut(&s, h.key, &r->key) &&
	    h.value >= -1 && cut(&s, h.value, &r->value) &&
	    h.headers == s.len && cut(&s, h.headers, &r->headers));
}

void
kafka_header_put(struct buf *b, const char *name, const void *value,
    size_t len)
{
	uint32_t n = (uint32_t)strlen(name);
	int32_t v = value == NULL ? -1 : (int32_t)len;

	buf_add(b, &n, sizeof(n));
	buf_add(b, &v, sizeof(v));
	buf_add(b, name, n);
	if (value != NULL)
		buf_add(b, value, len);
}

/* --- partitions ---------------------------------------------------------- */

struct offset *
offsets_find(const struct offsets *t, struct slice topic, int32_t partition)
{
	uint32_t i;

	for (i = 0; i < t->n; i++)
		if (t->o[i].partition == partition &&
		    strlen(t->o[i].topic) == topic.len &&
		    memcmp(t->o[i].topic, topic.data, topic.len) == 0)
			return (&t->o[i]);
	return (NULL);
}

static struct offset *
add(struct offsets *t, struct slice topic, int32_t partition, int64_t next,
    int64_t end)
{
	struct offset *o;

	if (t->n == OFFSETS_MOST || topic.len == 0 ||
	    memchr(topic.data, '\0', topic.len) != NULL ||
	    offsets_find(t, topic, partition) != NULL)
		return (NULL);
	t->o = xreallocarray(t->o, t->n + 1, sizeof(*t->o));
	o = &t->o[t->n++];
	memset(o, 0, sizeof(*o));
	o->topic = xstrndup((const char *)topic.data, topic.len);
	o->partition = partition;
	o->next = next;
	o->end = end;
	o->taken = o->told = -1;
	return (o);
}

struct offset *
offsets_take(struct offsets *t, const struct kafka_record *r, uint64_t now_ns)
{
	static struct offset nobody;
	struct offset *o;

	if (r->kind == KAFKA_LOOKED) {
		t->looked = true;
		return (&nobody);
	}
	if (r->kind == KAFKA_FOUND) {
		o = r->number == t->n ? add(t, r->topic, r->partition,
		    r->offset, r->time_ms) : NULL;
		if (o != NULL)
			o->part.heard_ns = now_ns;
		return (o);
	}
	if (r->number >= t->n || r->offset < t->o[r->number].next)
		return (NULL);
	o = &t->o[r->number];
	o->next = r->offset + (r->kind == KAFKA_RECORD);
	if (r->kind == KAFKA_END)
		o->end = r->time_ms;
	return (o);
}

void
offsets_copy(struct offsets *to, const struct offsets *from)
{
	struct offset *o;
	uint32_t i;

	for (i = 0; i < from->n; i++) {
		o = &from->o[i];
		(void)add(to, slice_of(o->topic, strlen(o->topic)),
		    o->partition, o->next, o->end);
	}
	to->looked |= from->looked;
}

void
offsets_fini(struct offsets *t)
{
	uint32_t i;

	for (i = 0; i < t->n; i++)
		free(t->o[i].topic);
	free(t->o);
	memset(t, 0, sizeof(*t));
}

/* --- saving -------------------------------------------------------------- */

void
offsets_pack_of(const struct offsets *t, uint32_t worker, uint32_t workers,
    struct buf *b)
{
	const struct offset *o;
	uint32_t i, n = 0;

	for (i = 0; i < t->n; i++)
		n += offsets_owner(t->o[i].partition, workers) == worker;
	mp_put_array(b, n + 1);
	mp_put_bool(b, t->looked);
	for (i = 0; i < t->n; i++) {
		o = &t->o[i];
		if (offsets_owner(o->partition, workers) != worker)
			continue;
		mp_put_array(b, 6);
		mp_put_str(b, o->topic);
		mp_put_uint(b, (uint64_t)o->partition);
		mp_put_uint(b, (uint64_t)o->next);
		mp_put_uint(b, (uint64_t)o->end);
		part_pack(&o->part, b);
	}
}

void
offsets_pack(const struct offsets *t, struct buf *b)
{
	offsets_pack_of(t, 0, 1, b);
}

int
offsets_unpack(struct offsets *t, struct slice packed)
{
	uint64_t partition, next, end;
	struct slice topic;
	struct offset *o;
	struct part part;
	struct mp c;
	uint32_t i, n;

	if (packed.len == 0)		/* of a source that had none yet */
		return (0);
	mp_init(&c, packed);
	n = mp_get_array(&c);
	t->looked |= mp_get_bool(&c);
	for (i = 1; i < n && mp_ok(&c); i++) {
		if (mp_get_array(&c) != 6)
			c.bad = true;
		topic = mp_get_str(&c);
		partition = mp_get_uint(&c, INT32_MAX);
		next = mp_get_uint(&c, INT64_MAX - 1);
		end = mp_get_uint(&c, INT64_MAX);
		part = part_unpack(&c);
		if (!mp_ok(&c) || topic.len > OFFSETS_TOPIC)
			return (-1);
		o = add(t, topic, (int32_t)partition, (int64_t)next,
		    (int64_t)end);
		if (o == NULL)
			return (-1);
		o->part = part;
	}
	return (n > 0 && mp_end(&c) ? 0 : -1);
}
