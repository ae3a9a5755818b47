/* Describes a kernel's structures to Python, which compares them with its ctypes mirrors when it
loads the library; see check_mirrors in library.py. */

#ifndef SPARSEKIT_LAYOUT_H
#define SPARSEKIT_LAYOUT_H

#include <stddef.h>

typedef struct {
    const char *name;
    long offset;
} layout_entry;

/* The array NAME_layout of a structure NAME begins with its size, under an empty name, and ends
   with END. */
#define SIZE(type) {"", sizeof(type)}
#define FIELD(type, field) {#field, offsetof(type, field)}
#define END {NULL, 0}

#endif
