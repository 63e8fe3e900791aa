/* Bytes of Modbus requests: how long they are, whether they are well formed, and how serial lines protect them.

Duty: everything about a request that can be told from its bytes alone, with no unit asked.
Rules of this file: no Python, no memory but the caller's, nothing is read outside the size that was given.

A PDU is a function code and what follows it, 1..253 bytes.  Sizes and limits are those of "Modbus Application
Protocol V1.1b3", chapter 6; checks run in the order of its state diagrams: quantity (03) before address (02). */

#ifndef RT_PDU_H
#define RT_PDU_H

#include <stdint.h>
#include <string.h>

enum {
    RT_READ_COILS = 1,
    RT_READ_INPUTS = 2,
    RT_READ_HOLDING = 3,
    RT_READ_INPUT_REGISTERS = 4,
    RT_WRITE_COIL = 5,
    RT_WRITE_SINGLE = 6,
    RT_DIAGNOSTICS = 8,
    RT_WRITE_COILS = 15,
    RT_WRITE_MULTIPLE = 16,
    RT_MASK_WRITE = 22,
    RT_READ_WRITE = 23,
    RT_ENCAPSULATED = 43,

    RT_MEI_IDENTIFICATION = 14,

    RT_ILLEGAL_FUNCTION = 1,
    RT_ILLEGAL_ADDRESS = 2,
    RT_ILLEGAL_VALUE = 3,
    RT_DEVICE_FAILURE = 4,

    RT_PDU_MAX = 253,
    RT_READ_MAX = 125,
    RT_WRITE_MAX = 123,
    RT_READ_WRITE_MAX = 121, /* registers that one request of function 23 may write */
    RT_READ_BITS_MAX = 2000,
    RT_WRITE_BITS_MAX = 1968
};

/* What a well-formed request asks for. */
typedef struct {
    int misfit;                  /* its size is not the one that its own fields demand */
    int address, count;          /* registers or bits; of function 23 those to be read */
    int write_address, write_count;
    const unsigned char *values; /* behind the header: values, masks, or echoed data */
} rt_request_t;

static inline int rt_word(const unsigned char *place)
{
    return place[0] << 8 | place[1];
}

static inline int rt_bit_bytes(int count)
{
    return (count + 7) / 8;
}

/* Return the size of the request PDU that begins with these bytes, 0 if they are too few to tell, or -1 if the
   size of such a request is not known.  Functions that no unit here serves have a size all the same. */
static inline int rt_request_size(const unsigned char *pdu, int size)
{
    if (size < 1)
        return 0;
    switch (pdu[0]) {
    case 1: case 2: case 3: case 4: case 5: case 6:
    case 8: /* as every known client sends sub-function 0: with one word of data */
        return 5;
    case 7: case 11: case 12: case 17:
        return 1;
    case 15: case 16:
        return size < 6 ? 0 : 6 + pdu[5];
    case 20: case 21:
        return size < 2 ? 0 : 2 + pdu[1];
    case 22:
        return 7;
    case 23:
        return size < 10 ? 0 : 10 + pdu[9];
    case 24:
        return 3;
    case 43:
        if (size < 2)
            return 0;
        return pdu[1] == RT_MEI_IDENTIFICATION ? 4 : -1;
    default:
        return -1;
    }
}

static inline int rt_in_range(int count, int count_max)
{
    return 1 <= count && count <= count_max;
}

static inline int rt_past_end(int address, int count)
{
    return address + count > 0x10000 ? RT_ILLEGAL_ADDRESS : 0;
}

/* Functions 8 and 43, whose requests are sorted by a second code. */
static inline int rt_parse_coded(const unsigned char *pdu, int size, rt_request_t *request)
{
    int code_size = pdu[0] == RT_DIAGNOSTICS ? 3 : 2;
    request->misfit = size < code_size;
    if (request->misfit)
        return RT_ILLEGAL_VALUE;
    if (pdu[0] == RT_DIAGNOSTICS) {
        if (rt_word(pdu + 1) != 0)
            return RT_ILLEGAL_FUNCTION;
        request->misfit = (size - 3) % 2; /* "Data: N x 2 bytes" */
        return request->misfit ? RT_ILLEGAL_VALUE : 0;
    }
    if (pdu[1] != RT_MEI_IDENTIFICATION)
        return RT_ILLEGAL_FUNCTION;
    request->misfit = size != 4;
    return request->misfit || !rt_in_range(pdu[2], 4) ? RT_ILLEGAL_VALUE : 0;
}

static inline int rt_parse_read_write(const unsigned char *pdu, rt_request_t *request)
{
    request->address = rt_word(pdu + 1);
    request->count = rt_word(pdu + 3);
    request->write_address = rt_word(pdu + 5);
    request->write_count = rt_word(pdu + 7);
    request->values = pdu + 10;
    if (!rt_in_range(request->count, RT_READ_MAX) || !rt_in_range(request->write_count, RT_READ_WRITE_MAX)
        || pdu[9] != 2 * request->write_count)
        return RT_ILLEGAL_VALUE;
    return rt_past_end(request->address, request->count)
        | rt_past_end(request->write_address, request->write_count);
}

/* Check a request PDU whose function is served; return 0 or the exception code to answer.  `size` is >= 1. */
static inline int rt_parse(const unsigned char *pdu, int size, rt_request_t *request)
{
    int good = 1;
    memset(request, 0, sizeof *request);
    if (pdu[0] == RT_DIAGNOSTICS || pdu[0] == RT_ENCAPSULATED)
        return rt_parse_coded(pdu, size, request);
    request->misfit = rt_request_size(pdu, size) != size;
    if (request->misfit)
        return RT_ILLEGAL_VALUE;
    if (pdu[0] == RT_READ_WRITE)
        return rt_parse_read_write(pdu, request);
    request->address = rt_word(pdu + 1);
    request->count = rt_word(pdu + 3);
    request->values = pdu + 6;
    switch (pdu[0]) {
    case RT_READ_COILS: case RT_READ_INPUTS:
        good = rt_in_range(request->count, RT_READ_BITS_MAX);
        break;
    case RT_READ_HOLDING: case RT_READ_INPUT_REGISTERS:
        good = rt_in_range(request->count, RT_READ_MAX);
        break;
    case RT_WRITE_COIL: /* "0xFF00: on, 0x0000: off; all other values are illegal" */
        good = request->count == 0xFF00 || request->count == 0;
        request->count = 1;
        request->values = pdu + 3;
        break;
    case RT_WRITE_SINGLE: case RT_MASK_WRITE:
        request->count = 1;
        request->values = pdu + 3;
        break;
    case RT_WRITE_COILS:
        good = rt_in_range(request->count, RT_WRITE_BITS_MAX) && pdu[5] == rt_bit_bytes(request->count);
        break;
    case RT_WRITE_MULTIPLE:
        good = rt_in_range(request->count, RT_WRITE_MAX) && pdu[5] == 2 * request->count;
        break;
    default:
        return RT_ILLEGAL_FUNCTION;
    }
    return good ? rt_past_end(request->address, request->count) : RT_ILLEGAL_VALUE;
}

/* CRC of a serial line's binary frames: polynomial 0xA001, begun with ones, sent low byte first. */
static inline int rt_crc16(const unsigned char *data, int64_t size)
{
    /* The table of half-byte steps: two short steps per byte, no table of 256 words. */
    static const uint16_t steps[16] = {0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401,
                                       0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01, 0x8801, 0x4400};
    unsigned int crc = 0xFFFF;
    int64_t k;
    for (k = 0; k < size; k++) {
        crc ^= data[k];
        crc = crc >> 4 ^ steps[crc & 15];
        crc = crc >> 4 ^ steps[crc & 15];
    }
    return (int)crc;
}

/* Check byte of a serial line's text frames: what makes the sum of all bytes zero. */
static inline int rt_lrc(const unsigned char *data, int64_t size)
{
    unsigned int sum = 0;
    int64_t k;
    for (k = 0; k < size; k++)
        sum += data[k];
    return (int)(-sum & 0xFF);
}

#endif
