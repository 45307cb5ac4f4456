/* Printed columns of custom resources. */
#pragma once

#include "apiserver/tables.h"

/* The printer for additionalPrinterColumns (NULL or empty: an Age column), in `a`. */
const struct table_printer *crd_columns(struct arena *a, const struct json *columns);
