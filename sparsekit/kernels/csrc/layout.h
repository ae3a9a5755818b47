/* How a kernel describes its structures to Python, which compares them with its own forms of them
   when it loads the library; see check_mirrors in library.py. */

#ifndef SPARSEKIT_LAYOUT_H
#define SPARSEKIT_LAYOUT_H

#include <stddef.h>

typedef struct {
    const char *name;
    long offset;
} layout_entry;

/* NAME_layout of a structure NAME begins with its size, under no name, and ends with END. */
#define SIZE(type) {"", sizeof(type)}
#define FIELD(type, field) {#field, offsetof(type, field)}
#define END {NULL, 0}

#endif
